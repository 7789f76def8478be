//! `yeta-gateway erase`: removes one person's data ahead of retention.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::fs::Mode;
use rustix::process::umask;
use yeta_gateway::config::Config;
use yeta_gateway::erase::{Erased, Person};
use yeta_gateway::{app, logging};

use super::{check, print};

/// Erases one person's data from the store of a stopped gateway.
///
/// Removes the pushes and calls of the number, their recordings in the archive, and the rows of
/// submissions with it. Ids stay, so that nobody is called again. The store is written anew, which
/// takes as much free space as it has. Backups, recordings at the platform and copies that services
/// have made stay.
#[derive(Args)]
pub struct EraseArgs {
    /// The gateway's configuration file; without it, defaults and environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The account.
    #[arg(long, value_name = "NAME")]
    account: String,
    /// The phone number, in any form.
    #[arg(long, value_name = "NUMBER")]
    phone: String,
}

/// Erases, and reports what was erased.
pub fn run(args: &EraseArgs) -> anyhow::Result<ExitCode> {
    let config = match check::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(faults) => {
            check::tell(&faults);
            bail!("nothing was erased");
        }
    };
    if !config.accounts.iter().any(|it| it.name == args.account) {
        bail!("there is no account named {:?}", args.account);
    }
    let person = Person::new(config.submissions.numbers, &args.phone);
    let person = person.context("a phone number has at least seven digits")?;
    logging::init(&config.log)?;
    umask(Mode::RWXG | Mode::RWXO);
    super::run(erase(config, args.account.clone(), person))
}

async fn erase(config: Config, account: String, person: Person) -> anyhow::Result<ExitCode> {
    let erased = app::erase(&config, &account, person).await?;
    let Erased {
        events,
        values,
        recordings,
        elsewhere,
        left,
    } = &erased;
    tracing::info!(target: "audit", account, events, values, recordings, "a person was erased");
    let rows = [
        ("pushes and calls", *events),
        ("submissions and other values", *values),
        ("recordings", *recordings),
    ];
    let rows = rows.map(|(what, count)| [what.to_owned(), count.to_string()]);
    print::lines(print::table(["erased", ""], rows))?;
    for url in elsewhere {
        print::note(format_args!("in another archive, not deleted: {url}"));
    }
    for key in left {
        print::note(format_args!(
            "not erased: a key of the store has the number: {key}"
        ));
    }
    Ok(ExitCode::from(u8::from(
        !elsewhere.is_empty() || !left.is_empty(),
    )))
}
