//! The configuration that `deploy/` ships, read as the gateway reads it.

use std::path::Path;

use yeta_gateway::config::Config;

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
