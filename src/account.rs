//! An account on the platform.

use crate::secret::Secret;

/// An account on the platform and what proves it, in both directions.
#[derive(Clone, Debug)]
pub struct Account {
    /// The account's name in the configuration, in `yeta-account` and in the
    /// path that the platform pushes to.
    pub name: String,
    /// Key of the application, for the platform's token.
    pub app_key: Secret,
    /// Secret of the application, for the platform's token.
    pub app_secret: Secret,
    /// The path segment that proves a push to be the platform's.
    pub push_secret: Secret,
}
