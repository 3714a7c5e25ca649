//! Black-box tests: the real binary, the real clients, the real databases.

mod architecture;
mod clients;
mod conformance;
mod faults;
mod harness;
mod identity;
mod kubernetes;
mod operation;
mod protocol;
mod storage;
