//! Client certificates of every kind, and who they say one is.

use std::path::PathBuf;

use berth_auth::{
    Authority, AuthorityError, CertificateRefused, Certificates, CertificatesSettings, NameFrom,
    NodeAuthority, Proven,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

/// 2026-11-26T22:40:00Z.
const NOW: i64 = 1_795_732_800_000;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// A client's certificate, which a test changes before it is signed.
fn client(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2026, 11, 1);
    params.not_after = date_time_ymd(2026, 12, 1);
    change(&mut params);
    params
}

fn signed(params: &CertificateParams, by: &Ca) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
}

fn kubelet(params: &mut CertificateParams, organization: &str, name: &str) {
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

struct Scene {
    folder: TempDir,
    settings: CertificatesSettings,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings: CertificatesSettings::default() }
    }

    fn file(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.pem"));
        std::fs::write(&path, pem).unwrap();
        path
    }

    fn cluster(mut self, name: &str, ca: &Ca) -> Self {
        let ca_file = self.file(name, &ca.pem());
        self.settings.nodes.push(NodeAuthority { cluster: name.into(), ca_file });
        self
    }

    fn authority(mut self, name: &str, ca: &Ca, name_from: NameFrom, trust_domains: &[&str]) -> Self {
        let trust_domains = trust_domains.iter().map(|domain| (*domain).to_owned()).collect();
        let ca_file = self.file(name, &ca.pem());
        self.settings.authorities.push(Authority { name: name.into(), ca_file, name_from, trust_domains });
        self
    }

    fn load(&self) -> Certificates {
        Certificates::load(self.settings.clone()).unwrap()
    }

    fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Proven, CertificateRefused> {
        self.load().identify(chain, NOW)
    }
}

fn node(name: &str, by: &Ca) -> CertificateDer<'static> {
    signed(&client(|params| kubelet(params, "system:nodes", &format!("system:node:{name}"))), by)
}

#[test]
fn a_kubelet_is_the_node_of_the_cluster_whose_ca_signed_it() {
    // Both call their CA the same, as clusters do.
    let (east, west) = (ca("kubernetes"), ca("kubernetes"));
    let scene = Scene::new().cluster("east", &east).cluster("west", &west);
    for (cluster, by) in [("east", &east), ("west", &west)] {
        let proven = scene.identify(&[node("node-1.internal", by)]).unwrap();
        assert_eq!(proven.identity.to_string(), format!("node:{cluster}/node-1.internal"));
        assert_eq!(proven.identity.attributes["cluster"], cluster);
        assert_eq!(proven.identity.attributes["node"], "node-1.internal");
        assert_eq!(proven.issuer, cluster);
        assert_eq!(proven.expires_at, 1_796_083_200_000);
    }
    let refused = scene.identify(&[node("node-1", &ca("kubernetes"))]).unwrap_err();
    assert_eq!(refused, CertificateRefused::UnknownAuthority);
}

#[test]
fn others_whom_the_cluster_ca_vouches_for_are_no_nodes() {
    let east = ca("kubernetes");
    let scene = Scene::new().cluster("east", &east);
    let cases: [&[(DnType, &str)]; 11] = [
        &[(DnType::OrganizationName, "system:masters"), (DnType::CommonName, "kubernetes-admin")],
        &[(DnType::OrganizationName, "system:masters"), (DnType::CommonName, "system:node:node-1")],
        &[(DnType::CommonName, "system:node:node-1")],
        &[(DnType::OrganizationName, "system:nodes")],
        &[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "node-1")],
        &[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "system:node:")],
        &[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "system:node:a/b")],
        &[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "system:node:a\nb")],
        &[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "system:node:*")],
        &[(DnType::OrganizationName, "System:Nodes"), (DnType::CommonName, "system:node:node-1")],
        &[(DnType::OrganizationalUnitName, "system:nodes"), (DnType::CommonName, "system:node:node-1")],
    ];
    for names in cases {
        let params = client(|params| {
            for (kind, name) in names {
                params.distinguished_name.push(kind.clone(), *name);
            }
        });
        let refused = scene.identify(&[signed(&params, &east)]).unwrap_err();
        assert!(matches!(refused, CertificateRefused::Name { .. }), "{names:?}: {refused}");
        assert!(!refused.to_string().contains('\n'));
    }
}

#[test]
fn a_certificate_that_is_not_for_clients_is_refused() {
    let east = ca("kubernetes");
    let scene = Scene::new().cluster("east", &east);
    for usages in [vec![ExtendedKeyUsagePurpose::ServerAuth], vec![], vec![ExtendedKeyUsagePurpose::Any]] {
        let params = client(|params| {
            kubelet(params, "system:nodes", "system:node:node-1");
            params.extended_key_usages = usages.clone();
        });
        let refused = scene.identify(&[signed(&params, &east)]).unwrap_err();
        assert_eq!(refused, CertificateRefused::NotForClients, "{usages:?}");
    }
    let both = client(|params| {
        kubelet(params, "system:nodes", "system:node:node-1");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    });
    scene.identify(&[signed(&both, &east)]).unwrap();
}

#[test]
fn a_certificate_is_good_between_its_two_times() {
    let east = ca("kubernetes");
    let certificates = Scene::new().cluster("east", &east).load();
    let chain = [node("node-1", &east)];
    let (from, to) = (1_793_491_200_000, 1_796_083_200_000);
    certificates.identify(&chain, from).unwrap();
    certificates.identify(&chain, to).unwrap();
    let refused = certificates.identify(&chain, to + 1000).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the client certificate expired at 2026-12-01T00:00:00Z, and it is 2026-12-01T00:00:01Z here"
    );
    let refused = certificates.identify(&chain, from - 1000).unwrap_err();
    assert!(matches!(refused, CertificateRefused::NotYet { .. }), "{refused}");
    certificates.identify(&chain, -1).unwrap_err();
}

#[test]
fn a_workload_is_known_by_its_spiffe_id() {
    let mesh = ca("mesh");
    let scene = Scene::new().authority("mesh", &mesh, NameFrom::Spiffe, &["prod.example.com"]);
    let id = "spiffe://prod.example.com/ns/shop/sa/web";
    let with = |names: Vec<SanType>| signed(&client(|params| params.subject_alt_names = names), &mesh);
    let proven = scene.identify(&[with(vec![uri(id), dns("web.shop.svc")])]).unwrap();
    assert_eq!(proven.identity.to_string(), format!("certificate:{id}"));
    assert_eq!(proven.identity.attributes["authority"], "mesh");
    assert_eq!(proven.identity.attributes["trust_domain"], "prod.example.com");
    let bad = [
        vec![],
        vec![dns("web.shop.svc")],
        vec![uri(id), uri("spiffe://prod.example.com/ns/shop/sa/admin")],
        vec![uri(id), uri("https://example.com/")],
        vec![uri("spiffe://other.example.com/ns/shop/sa/web")],
        vec![uri("spiffe://prod.example.com")],
        vec![uri("spiffe://prod.example.com/")],
        vec![uri("spiffe://prod.example.com/ns//web")],
        vec![uri("spiffe://prod.example.com/ns/../web")],
        vec![uri("spiffe://prod.example.com/ns/./web")],
        vec![uri("spiffe://prod.example.com/web/")],
        vec![uri("spiffe://prod.example.com/we%62")],
        vec![uri("spiffe://prod.example.com/web?x=1")],
        vec![uri("spiffe://prod.example.com/web#x")],
        vec![uri("spiffe://user@prod.example.com/web")],
        vec![uri("spiffe://prod.example.com:443/web")],
        vec![uri("spiffe://PROD.example.com/web")],
        vec![uri("SPIFFE://prod.example.com/web")],
        vec![uri("spiffe:///web")],
        vec![uri("spiffe://prod.example.com/w*b")],
        vec![uri(&format!("spiffe://prod.example.com/{}", "w".repeat(2000)))],
    ];
    for names in bad {
        let refused = scene.identify(&[with(names.clone())]).unwrap_err();
        assert!(matches!(refused, CertificateRefused::Name { .. }), "{names:?}: {refused}");
    }
}

#[test]
fn a_ca_names_holders_by_the_only_name_of_a_kind() {
    let office = ca("office");
    let with = |names: Vec<SanType>| signed(&client(|params| params.subject_alt_names = names), &office);
    let scene = Scene::new().authority("office", &office, NameFrom::Dns, &[]);
    let proven = scene.identify(&[with(vec![dns("ci.example.com"), uri("spiffe://a/b")])]).unwrap();
    assert_eq!(proven.identity.to_string(), "certificate:office/ci.example.com");
    for names in [vec![], vec![dns("a.test"), dns("b.test")], vec![dns("a\nb")], vec![dns("a\0b")]] {
        let refused = scene.identify(&[with(names.clone())]).unwrap_err();
        assert!(matches!(refused, CertificateRefused::Name { .. }), "{names:?}: {refused}");
    }
    let mail = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
    let scene = Scene::new().authority("office", &office, NameFrom::Email, &[]);
    let proven = scene.identify(&[with(vec![mail("alice@example.com")])]).unwrap();
    assert_eq!(proven.identity.name(), "office/alice@example.com");
    // The common name is no name.
    let params = client(|params| params.distinguished_name.push(DnType::CommonName, "alice"));
    assert!(scene.identify(&[signed(&params, &office)]).is_err());
}

#[test]
fn what_a_certificate_means_depends_on_the_ca_that_signed_it() {
    let (east, mesh) = (ca("kubernetes"), ca("mesh"));
    let scene = Scene::new().cluster("east", &east).authority("mesh", &mesh, NameFrom::Spiffe, &[]);
    let both = client(|params| {
        kubelet(params, "system:nodes", "system:node:node-1");
        params.subject_alt_names = vec![uri("spiffe://prod.example.com/web")];
    });
    assert_eq!(scene.identify(&[signed(&both, &east)]).unwrap().identity.name(), "east/node-1");
    let by_mesh = scene.identify(&[signed(&both, &mesh)]).unwrap();
    assert_eq!(by_mesh.identity.name(), "spiffe://prod.example.com/web");
    // One CA for both: it is what it can be.
    let scene = Scene::new().cluster("east", &east).authority("mesh", &east, NameFrom::Spiffe, &[]);
    let workload = client(|params| params.subject_alt_names = vec![uri("spiffe://prod.example.com/web")]);
    let proven = scene.identify(&[signed(&workload, &east)]).unwrap();
    assert_eq!(proven.identity.name(), "spiffe://prod.example.com/web");
}

#[test]
fn a_chain_leads_over_the_certificates_that_come_with_it() {
    let root = ca("root");
    let between = |change: fn(&mut CertificateParams)| {
        let mut params = ca_params("between");
        change(&mut params);
        CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap()
    };
    let scene = Scene::new().cluster("east", &root);
    let good = between(|_| {});
    let leaf = node("node-1", &good);
    scene.identify(&[leaf.clone(), good.der().clone()]).unwrap();
    assert_eq!(scene.identify(&[leaf]).unwrap_err(), CertificateRefused::UnknownAuthority);
    // A client's certificate signs nobody.
    let no_ca = between(|params| params.is_ca = IsCa::NoCa);
    assert!(scene.identify(&[node("node-1", &no_ca), no_ca.der().clone()]).is_err());
    let over = between(|params| params.not_after = date_time_ymd(2026, 11, 1));
    let refused = scene.identify(&[node("node-1", &over), over.der().clone()]).unwrap_err();
    assert!(matches!(refused, CertificateRefused::Expired { .. }), "{refused}");
    // Nor is the CA itself a client.
    assert!(scene.identify(&[root.der().clone()]).is_err());
}

#[test]
fn what_is_no_certificate_is_refused() {
    let east = ca("kubernetes");
    let scene = Scene::new().cluster("east", &east);
    assert_eq!(scene.identify(&[]).unwrap_err(), CertificateRefused::Malformed);
    let good = node("node-1", &east);
    let mut more = good.to_vec();
    more.push(0);
    for bytes in [vec![], b"hello".to_vec(), more, good[..good.len() - 1].to_vec()] {
        let refused = scene.identify(&[CertificateDer::from(bytes)]).unwrap_err();
        assert_eq!(refused, CertificateRefused::Malformed);
    }
    // Each changed byte breaks the signature, or the form.
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        assert!(scene.identify(&[CertificateDer::from(bytes)]).is_err(), "byte {at}");
    }
}

#[test]
fn a_ca_is_read_again_and_a_broken_file_leaves_the_old() {
    let (old, new) = (ca("kubernetes"), ca("kubernetes"));
    let scene = Scene::new().cluster("east", &old);
    let certificates = scene.load();
    let before = certificates.authorities();
    assert_eq!(before.len(), 1);
    assert!(certificates.reload().is_empty());
    assert_eq!(certificates.authorities(), before);
    for broken in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        scene.file("east", broken);
        assert_eq!(certificates.reload().len(), 1, "{broken}");
        assert_eq!(certificates.authorities(), before);
        certificates.identify(&[node("node-1", &old)], NOW).unwrap();
    }
    // Both while one gives way to the other.
    scene.file("east", &format!("{}{}", old.pem(), new.pem()));
    assert!(certificates.reload().is_empty());
    assert_eq!(certificates.authorities().len(), 2);
    certificates.identify(&[node("node-1", &old)], NOW).unwrap();
    certificates.identify(&[node("node-1", &new)], NOW).unwrap();
    scene.file("east", &new.pem());
    assert!(certificates.reload().is_empty());
    assert!(certificates.identify(&[node("node-1", &old)], NOW).is_err());
}

#[test]
fn cas_that_cannot_be_are_refused() {
    let one = ca("one");
    let refused = |scene: &Scene| Certificates::load(scene.settings.clone()).err().unwrap();
    let scene = Scene::new().authority("a", &one, NameFrom::Spiffe, &[]).authority(
        "b",
        &one,
        NameFrom::Spiffe,
        &["b.test"],
    );
    assert!(matches!(refused(&scene), AuthorityError::TrustDomains(name) if name == "a"));
    let scene = Scene::new().cluster("east", &one).authority("east", &one, NameFrom::Dns, &[]);
    assert!(matches!(refused(&scene), AuthorityError::SameName(_)));
    let scene = Scene::new().authority("A", &one, NameFrom::Dns, &[]);
    assert!(matches!(refused(&scene), AuthorityError::Name(_)));
    let scene = Scene::new().cluster("east", &one);
    scene.file("east", "nothing");
    assert!(matches!(refused(&scene), AuthorityError::Unusable { .. }));
    std::fs::remove_file(scene.folder.path().join("east.pem")).unwrap();
    assert!(matches!(refused(&scene), AuthorityError::Read { .. }));
}
