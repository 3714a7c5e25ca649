// The control plane of the tests' cluster: the API server of Kubernetes and the etcd it keeps
// everything in, as one program, so that they are built and linked once.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	switch command {
	case "apiserver":
		server := app.NewAPIServerCommand()
		server.SetArgs(os.Args[2:])
		os.Exit(cli.Run(server))
	case "etcd":
		// It reads flags from the arguments it is given, and never returns.
		etcdmain.Main(os.Args[1:])
	default:
		fmt.Fprintln(os.Stderr, "usage: kubernetes apiserver|etcd FLAGS...")
		os.Exit(2)
	}
}
