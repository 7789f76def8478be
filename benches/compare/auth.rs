//! `CallOut` of an authenticated client with its audit line, beside a gateway that is open to
//! everybody and writes no audit log: each a process of its own.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::idle::process::Process;
use crate::measure::{Cpu, Plan, Side, client_runtime, compare};
use crate::platform::Platform;
use crate::unary::call;

const TOKEN: &str = "a token of the bench, long enough to be hashed";
/// Clients before the one that calls: each request is compared with all of them.
const OTHERS: usize = 20;
const NO_AUDIT: &str = "log.filter = 'info,fjall=warn,lsm_tree=warn,audit=off'\n";

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let closed = Process::start_with(platform.address, &clients()?)?;
    let open = Process::start_with(platform.address, NO_AUDIT)?;
    let client = client_runtime()?;
    compare(
        "auth: CallOut, 64 at once on 2 connections",
        plan,
        &Side {
            name: "authenticated and audited",
            cpu: Cpu::Process(closed.id()),
            run: &|| client.block_on(call(closed.grpc, Some(TOKEN), plan.round)),
        },
        &Side {
            name: "open, without audit log",
            cpu: Cpu::Process(open.id()),
            run: &|| client.block_on(call(open.grpc, None, plan.round)),
        },
    )
}

/// The clients' part of the configuration.
fn clients() -> anyhow::Result<String> {
    let mut text = String::new();
    let others = (0..OTHERS).map(|other| format!("token {other}"));
    for (number, token) in others.chain([TOKEN.to_owned()]).enumerate() {
        write!(
            text,
            "[[clients]]\nname = 'client-{number}'\nallow = ['outbound']\naccounts = ['*']\n\
             token_sha256 = '"
        )?;
        for byte in Sha256::digest(token) {
            write!(text, "{byte:02x}")?;
        }
        text.push_str("'\n");
    }
    Ok(text)
}
