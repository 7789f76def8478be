//! What the demo says.

use anstyle::{AnsiColor, Style};
use yeta_gateway::proto::{CallOutResponse, Line, Robot};

use super::Addresses;
use super::calls::Call;
use crate::cli::print;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();

/// Where everything is.
pub fn opening(addresses: &Addresses) {
    let Addresses {
        grpc,
        push,
        admin,
        sandbox,
    } = addresses;
    anstream::println!(
        "\n{BOLD}yeta-gateway demo{BOLD:#}: a gateway and a simulated platform, on this machine alone\n\n\
         \x20 your services ──gRPC {grpc}──▶ gateway ──HTTP {sandbox}──▶ sandbox\n\
         \x20 your services ◀──one stream──── gateway ◀──pushes {push}── sandbox\n\
         \x20 {DIM}health and metrics: http://{admin}/readyz, /metrics{DIM:#}\n"
    );
}

/// What is about to be submitted.
pub fn submitting(robot: &Robot, line: &Line, rows: usize) {
    anstream::println!(
        "{BOLD}CallOut{BOLD:#}: {rows} rows to robot {} ({}) on line {}",
        robot.robot_id,
        robot.robot_name,
        line.line_num
    );
}

/// What the platform answered.
pub fn submitted(placed: &CallOutResponse) {
    let ids = placed.task_data_ids.join(", ");
    anstream::println!(
        "  accepted, task_data_ids {ids}\n  {DIM}subscribing from push_cursor {}{DIM:#}\n\n\
         {BOLD}SubscribePushes{BOLD:#}: what the platform pushes, as it comes",
        placed.push_cursor
    );
}

/// What became of the calls.
pub fn summary(calls: &[Call]) {
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_by_key(|call| {
        call.record
            .as_ref()
            .map(|record| record.task_data_id.clone())
    });
    let head = ["row", "callee", "result", "talked", "turns", "recording"];
    let table = print::table(head, calls.into_iter().filter_map(row));
    anstream::println!("\n{table}\n{GOOD}every push has come back{GOOD:#}\n");
}

fn row(call: &Call) -> Option<[String; 6]> {
    let record = call.record.as_ref()?;
    let answered = call.answered() == Some(true);
    let talked = record.duration_call.filter(|_| answered);
    let size = call.voice.as_ref().and_then(|voice| voice.size);
    Some([
        record.task_data_id.clone(),
        print::masked(&record.callee),
        print::result(record),
        print::or_dash(talked.map(|seconds| format!("{seconds} s"))),
        print::or_dash(call.dialog.as_ref().map(|dialog| dialog.dialog.len())),
        print::or_dash(size.map(|size| format!("{} KiB", size / 1024))),
    ])
}

/// What to try while the demo stays up.
pub fn what_next(addresses: &Addresses) {
    let Addresses {
        grpc,
        admin,
        sandbox,
        ..
    } = addresses;
    anstream::println!(
        "{BOLD}Try next{BOLD:#}, in another terminal:\n\n\
         \x20 yeta-gateway tail --address http://{grpc} --from-start\n\
         \x20 grpcurl -plaintext {grpc} yeta.v1.ConfigService/QueryConfig\n\
         \x20 curl -s http://{sandbox}/sandbox   {DIM}# faults to try: latency, cut connections, quirks{DIM:#}\n\n\
         {DIM}curl -s http://{admin}/metrics shows what was counted. Ctrl-C ends the demo.{DIM:#}"
    );
}
