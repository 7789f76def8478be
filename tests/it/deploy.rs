//! The configuration that `deploy/` ships, read as the gateway reads it.

use std::path::Path;
use std::process::Command;

use yeta_gateway::config::Config;

use crate::support::binary;

const TLS: &str = include_str!("../../deploy/kustomize/components/grpc-tls/stateful-set.yaml");
const BASE: &str = include_str!("../../deploy/kustomize/base/config.toml");
const CLIENT_HASH: &str = "YETA_GATEWAY__CLIENTS__0__TOKEN_SHA256";

/// Reads the base's configuration with these values of its two Secrets.
fn read(folder: &Path, secret: &str, token_sha256: &str) -> Result<Config, Vec<String>> {
    for name in ["app_key", "app_secret", "push_secret"] {
        std::fs::write(folder.join(format!("default.{name}")), secret).unwrap();
    }
    let text = BASE.replace("/run/secrets/yeta-gateway", folder.to_str().unwrap());
    let variable = (CLIENT_HASH.to_owned(), token_sha256.to_owned());
    Config::parse(&text, std::iter::once(variable))
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn the_base_admits_only_the_client_of_the_secret_and_no_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let config = read(folder.path(), "a-secret-of-some-length", &"ab".repeat(32)).unwrap();
    assert!(!config.grpc.insecure);
    let [client] = config.clients.as_slice() else {
        panic!("{:?}", config.clients);
    };
    assert_eq!(client.accounts, ["default"]);
    assert!(!client.allow.iter().any(|group| group.name() == "admin"));
}

#[test]
fn the_base_does_not_start_with_its_placeholders_and_names_each() {
    let folder = tempfile::tempdir().unwrap();
    let faults = read(folder.path(), "", "").unwrap_err();
    for key in [
        "accounts[0].app_key_file",
        "accounts[0].app_secret_file",
        "accounts[0].push_secret_file",
        "clients[0].token_sha256",
    ] {
        let is_named = |fault: &String| fault.starts_with(&format!("{key}: "));
        assert!(
            faults.iter().any(is_named),
            "{key} is not among {faults:#?}"
        );
    }
}

#[test]
fn the_bounds_of_the_base_fit_into_the_memory_of_its_pod() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["app_key", "app_secret", "push_secret"] {
        let secret = "a-secret-of-some-length";
        std::fs::write(folder.path().join(format!("default.{name}")), secret).unwrap();
    }
    let text = BASE.replace("/run/secrets/yeta-gateway", folder.path().to_str().unwrap());
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let check = |budget: &str| {
        let mut command = Command::new(binary());
        command.arg("check").arg("--config").arg(&file);
        command.env(CLIENT_HASH, "ab".repeat(32));
        command.env("YETA_GATEWAY__MEMORY_BUDGET", budget);
        command.output().unwrap()
    };
    // Three quarters of 2 GiB, the limit of the pod.
    let fitting = check("1610612736");
    assert!(fitting.status.success(), "{fitting:?}");
    assert_eq!(check("8388608").status.code(), Some(2));
}

#[test]
fn the_tls_component_names_settings_of_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let certified = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
    std::fs::write(path.join("tls.crt"), certified.cert.pem()).unwrap();
    std::fs::write(path.join("tls.key"), certified.signing_key.serialize_pem()).unwrap();
    let component = TLS.replace("/run/secrets/grpc-tls", path.to_str().unwrap());
    let values = component.lines().map(str::trim).collect::<Vec<_>>();
    let variables = values.windows(2).filter_map(|lines| {
        let name = lines[0].strip_prefix("- name: ")?;
        let value = lines[1].strip_prefix("value: ")?;
        Some((name.to_owned(), value.to_owned()))
    });
    let config = Config::parse("", variables).unwrap();
    let tls = config.grpc.tls.unwrap();
    assert_eq!(tls.cert_file, path.join("tls.crt"));
    assert_eq!(tls.key_file, path.join("tls.key"));
}
