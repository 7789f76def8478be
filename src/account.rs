//! Accounts: the identities that the gateway has with the platform.

use ipnet::IpNet;

use crate::secret::Secret;

/// One application of the platform, under the name that callers know it by.
#[derive(Clone, Debug)]
pub struct Account {
    /// The name that callers give in the `yeta-account` metadata, and a segment of the push URL.
    pub name: String,
    /// The application's key, exchanged for tokens (`app_key`).
    pub app_key: Secret,
    /// The application's secret, exchanged for tokens (`app_secret`).
    pub app_secret: Secret,
    /// The segment of the push URL that only the platform knows.
    pub push_secret: Secret,
    /// The networks that may push; empty: any.
    pub allow_push_from: Vec<IpNet>,
    /// Whether it places calls; off: pushes and reads go on.
    pub enabled: bool,
}
