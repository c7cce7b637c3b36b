use super::*;
use crate::health::fake_backend::Pki;

fn none() -> TlsVerify {
    TlsVerify { verify: Verify::None, ca_file: None, client_cert: None, client_key: None }
}

fn ca(path: PathBuf) -> TlsVerify {
    TlsVerify { verify: Verify::Ca, ca_file: Some(path), ..none() }
}

fn client(cert: PathBuf, key: PathBuf) -> TlsVerify {
    TlsVerify { client_cert: Some(cert), client_key: Some(key), ..none() }
}

#[test]
fn usable_files() {
    let pki = Pki::new();
    for tls in [none(), ca(pki.path("ca.pem")), client(pki.path("client.pem"), pki.path("client.key"))] {
        let config = client_config(&tls, &[b"http/1.1"]).expect("usable");
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    }
}

#[test]
fn unusable_files_are_named() {
    let (pki, other) = (Pki::new(), Pki::new());
    let not_pem = pki.file("text.pem", "hello\n");
    let broken = pki.file("broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let not_der = pki.file("der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (cert, key) = (pki.path("client.pem"), pki.path("client.key"));
    let rows = [
        (ca(pki.path("absent.pem")), "absent.pem: No such file"),
        (ca(not_pem.clone()), "text.pem: holds no certificate"),
        (ca(key.clone()), "client.key: holds no certificate"),
        (ca(broken), "broken.pem: not PEM: "),
        (ca(not_der), "der.pem: "),
        (client(cert.clone(), not_pem), "text.pem: holds no private key"),
        (client(cert.clone(), pki.path("absent.key")), "absent.key: No such file"),
        (client(cert.clone(), other.path("client.key")), "client.key: "),
        (TlsVerify { verify: Verify::Ca, ..none() }, "needs a ca_file"),
        (TlsVerify { client_cert: Some(cert), ..none() }, "go together"),
    ];
    for (tls, words) in rows {
        let error = client_config(&tls, &[]).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    }
}

/// `verify = "none"` asks nothing of the certificate, but the handshake must be signed with its key.
#[test]
fn any_certificate_but_only_with_its_key() {
    use rustls::{ServerConnection, pki_types::PrivatePkcs8KeyDer, server, sign};

    #[derive(Debug)]
    struct Forged(Arc<sign::CertifiedKey>);
    impl server::ResolvesServerCert for Forged {
        fn resolve(&self, _hello: server::ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    let own = rcgen::generate_simple_self_signed(["anything".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["anything".to_owned()]).expect("a certificate");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (key, honest) in [(&own.signing_key, true), (&other.signing_key, false)] {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let signer = provider.key_provider.load_private_key(der).expect("a key");
            let forged = sign::CertifiedKey::new(vec![own.cert.der().clone()], signer);
            let server = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Forged(Arc::new(forged))));
            let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
            let name = ServerName::try_from("192.0.2.1").expect("an address");
            let config = Arc::new(client_config(&none(), &[]).expect("usable"));
            let mut client = rustls::ClientConnection::new(config, name).expect("a client");

            let mut result = Ok(());
            while result.is_ok() && (client.is_handshaking() || server.is_handshaking()) {
                let mut wire = Vec::new();
                client.write_tls(&mut wire).expect("memory");
                server.read_tls(&mut wire.as_slice()).expect("memory");
                server.process_new_packets().expect("a client that behaves");
                wire.clear();
                while server.wants_write() {
                    server.write_tls(&mut wire).expect("memory");
                }
                client.read_tls(&mut wire.as_slice()).expect("memory");
                result = client.process_new_packets().map(drop);
            }
            let expected = if honest {
                Ok(())
            } else {
                Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature))
            };
            assert_eq!(result, expected, "{version:?}");
        }
    }
}
