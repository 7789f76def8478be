//! Who may push: whoever knows the secret in the path, from a network that the account allows.

use std::sync::Arc;

use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use crate::account::Account;
use crate::http_server::Peer;

/// The account that the address stands for; `None` whatever about it is wrong, in the same time.
pub fn account<'a>(
    accounts: &'a [Arc<Account>],
    name: &str,
    secret: &str,
    peer: Option<Peer>,
) -> Option<&'a Account> {
    // Every account is looked at, so that the time tells nothing of which name or secret was near.
    let mut found = None;
    for account in accounts {
        if is_account(account, name, secret) {
            found = Some(account.as_ref());
        }
    }
    found.filter(|account| may_push(account, peer))
}

fn is_account(account: &Account, name: &str, secret: &str) -> bool {
    let expected = match account.push_secret.read() {
        Ok(expected) => expected,
        Err(error) => {
            tracing::error!(account = account.name, %error, "no push can be accepted");
            return false;
        }
    };
    let same_secret = expected.expose_secret().as_bytes().ct_eq(secret.as_bytes());
    let same_name = account.name.as_bytes().ct_eq(name.as_bytes());
    bool::from(same_secret & same_name)
}

fn may_push(account: &Account, peer: Option<Peer>) -> bool {
    account.allow_push_from.is_empty()
        || peer.is_some_and(|Peer(address)| {
            let ip = address.ip().to_canonical();
            account
                .allow_push_from
                .iter()
                .any(|network| network.contains(&ip))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn accounts() -> Vec<Arc<Account>> {
        let account = |name: &str, secret: &str, networks: &[&str]| {
            Arc::new(Account {
                name: name.into(),
                app_key: Secret::inline("key"),
                app_secret: Secret::inline("secret"),
                push_secret: Secret::inline(secret),
                allow_push_from: networks.iter().map(|n| n.parse().unwrap()).collect(),
                enabled: true,
            })
        };
        vec![
            account("a", "sesame", &[]),
            account("b", "poppy", &["10.0.0.0/8"]),
        ]
    }

    #[test]
    fn an_address_needs_the_accounts_own_secret() {
        let accounts = accounts();
        let find = |name, secret| account(&accounts, name, secret, None).map(|a| a.name.as_str());
        assert_eq!(find("a", "sesame"), Some("a"));
        assert_eq!(find("a", "poppy"), None);
        assert_eq!(find("b", "sesame"), None);
        assert_eq!(find("c", "sesame"), None);
        assert_eq!(find("a", ""), None);
    }

    #[test]
    fn an_account_can_be_closed_to_other_networks() {
        let accounts = accounts();
        let from = |peer: &str| {
            account(&accounts, "b", "poppy", Some(Peer(peer.parse().unwrap()))).is_some()
        };
        assert!(from("10.1.2.3:4000"));
        assert!(from("[::ffff:10.1.2.3]:4000"));
        assert!(!from("192.0.2.1:4000"));
    }
}
