//! Erases a person's data with the gateway's own configuration.

use super::AppError;
use super::settings::archive_options;
use crate::config::Config;
use crate::erase::{self, Erased, Person};
use crate::voice::Archive;

/// Erases a person's data of one account. The gateway must be stopped.
pub async fn erase(config: &Config, account: &str, person: Person) -> Result<Erased, AppError> {
    let archive = archive_options(config).map(|options| Archive::open(&options));
    let archive = archive.transpose()?;
    let folder = config.store.path.clone();
    Ok(erase::erase(folder, archive.as_ref(), account, person).await?)
}
