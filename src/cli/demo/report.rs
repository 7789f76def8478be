//! What the demo says.

use anstyle::{AnsiColor, Style};
use yeta_gateway::proto::{Call, CallOutResponse, Line, Robot};

use super::Addresses;
use crate::cli::call::show;
use crate::cli::print;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();

/// Where everything is.
pub fn opening(addresses: &Addresses) -> anyhow::Result<()> {
    let Addresses {
        grpc,
        push,
        admin,
        sandbox,
    } = addresses;
    print::styled(format_args!(
        "\n{BOLD}yeta-gateway demo{BOLD:#}: a gateway and a simulated platform, on this machine alone\n\n\
         \x20 your services ──gRPC {grpc}──▶ gateway ──HTTP {sandbox}──▶ sandbox\n\
         \x20 your services ◀──one stream──── gateway ◀──pushes {push}── sandbox\n\
         \x20 {DIM}health and metrics: http://{admin}/readyz, /metrics{DIM:#}\n"
    ))
}

/// What is about to be submitted.
pub fn submitting(robot: &Robot, line: &Line, rows: usize) -> anyhow::Result<()> {
    print::styled(format_args!(
        "{BOLD}CallOut{BOLD:#}: {rows} rows to robot {} ({}) on line {}",
        robot.robot_id, robot.robot_name, line.line_num
    ))
}

/// What the platform answered.
pub fn submitted(placed: &CallOutResponse) -> anyhow::Result<()> {
    let ids = placed.task_data_ids.join(", ");
    print::styled(format_args!(
        "  accepted, task_data_ids {ids}\n  {DIM}subscribing from push_cursor {}{DIM:#}\n\n\
         {BOLD}SubscribePushes{BOLD:#}: what the platform pushes, as it comes",
        placed.push_cursor
    ))
}

/// What became of the calls.
pub fn summary(calls: &[Call]) -> anyhow::Result<()> {
    print::styled(format_args!(
        "\n{BOLD}WatchCalls{BOLD:#}: each call put together, once all of it was there\n\n{}\n\
         {GOOD}every push has come back{GOOD:#}\n",
        show::table(calls)
    ))
}

/// What to try while the demo stays up.
pub fn what_next(addresses: &Addresses) -> anyhow::Result<()> {
    let Addresses {
        grpc,
        admin,
        sandbox,
        ..
    } = addresses;
    print::styled(format_args!(
        "{BOLD}Try next{BOLD:#}, in another terminal:\n\n\
         \x20 yeta-gateway tail --address http://{grpc} --from-start\n\
         \x20 yeta-gateway call list --address http://{grpc}   {DIM}# then: call get ID{DIM:#}\n\
         \x20 curl -s http://{sandbox}/sandbox   {DIM}# faults to try: latency, cut connections, quirks{DIM:#}\n\n\
         {DIM}curl -s http://{admin}/metrics shows what was counted. Ctrl-C ends the demo.{DIM:#}"
    ))
}
