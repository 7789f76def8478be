//! Who may push: whoever knows the secret in the path, from a network that the account allows.

use std::net::IpAddr;
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

use crate::account::Account;

/// The account that the address stands for; `None` whatever about it is wrong, in the same time.
pub fn account<'a>(
    accounts: &'a [Arc<Account>],
    name: &str,
    secret: &str,
    client: Option<IpAddr>,
) -> Option<&'a Account> {
    // Every account is looked at, so that the time tells nothing of which name or secret was near.
    let mut found = None;
    for account in accounts {
        if is_account(account, name, secret) {
            found = Some(account.as_ref());
        }
    }
    found.filter(|account| may_push(account, client))
}

fn is_account(account: &Account, name: &str, secret: &str) -> bool {
    let is_secret = match account.push_secret.is(secret) {
        Ok(is_secret) => is_secret,
        Err(error) => {
            tracing::error!(account = account.name, %error, "no push can be accepted");
            return false;
        }
    };
    let is_name = account.name.as_bytes().ct_eq(name.as_bytes());
    bool::from(Choice::from(u8::from(is_secret)) & is_name)
}

fn may_push(account: &Account, client: Option<IpAddr>) -> bool {
    let networks = &account.allow_push_from;
    let is_allowed = |client: IpAddr| networks.iter().any(|it| it.contains(&client));
    networks.is_empty() || client.is_some_and(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn accounts() -> Vec<Arc<Account>> {
        let account = |name: &str, [secret, next]: [&str; 2], networks: &[&str]| {
            Arc::new(Account {
                name: name.into(),
                app_key: Secret::inline("key"),
                app_secret: Secret::inline("secret"),
                push_secret: Secret::any_of([Secret::inline(secret), Secret::inline(next)]),
                allow_push_from: networks.iter().map(|n| n.parse().unwrap()).collect(),
                enabled: true,
            })
        };
        vec![
            account("a", ["sesame", "simsim"], &[]),
            account("b", ["poppy", "mohn"], &["10.0.0.0/8"]),
        ]
    }

    #[test]
    fn an_address_needs_the_accounts_own_secret() {
        let accounts = accounts();
        let find = |name, secret| account(&accounts, name, secret, None).map(|a| a.name.as_str());
        assert_eq!(find("a", "sesame"), Some("a"));
        assert_eq!(find("a", "simsim"), Some("a"));
        assert_eq!(find("a", "mohn"), None);
        assert_eq!(find("a", "poppy"), None);
        assert_eq!(find("b", "sesame"), None);
        assert_eq!(find("c", "sesame"), None);
        assert_eq!(find("a", ""), None);
    }

    #[test]
    fn an_account_can_be_closed_to_other_networks() {
        let accounts = accounts();
        let from = |client: &str| {
            account(&accounts, "b", "poppy", Some(client.parse().unwrap())).is_some()
        };
        assert!(from("10.1.2.3"));
        assert!(!from("192.0.2.1"));
        assert!(account(&accounts, "b", "poppy", None).is_none());
    }
}
