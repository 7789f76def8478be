//! `yeta-gateway config`: what the platform has for an account.

use clap::{Args, Subcommand};
use yeta_gateway::proto::QueryConfigRequest;
use yeta_gateway::proto::config_service_client::ConfigServiceClient;

use super::print;
use super::remote::{UnaryArgs, refused};

/// Shows what the platform has for an account.
#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Lines, robots, voices and push addresses (QueryConfig, 查询配置).
    Query(UnaryArgs),
}

/// Does what the arguments ask.
pub async fn run(args: ConfigArgs) -> anyhow::Result<()> {
    let ConfigCommand::Query(unary) = args.command;
    let mut client = ConfigServiceClient::new(unary.connect()?);
    let config = client
        .query_config(QueryConfigRequest::default())
        .await
        .map_err(refused)?
        .into_inner();
    if unary.json {
        print::out(print::json("QueryConfigResponse", &config)?)?;
        return Ok(());
    }
    let lines = config.lines.into_iter().map(|line| {
        let status = line
            .status()
            .as_str_name()
            .trim_start_matches("LINE_STATUS_")
            .to_lowercase();
        [
            line.line_num,
            print::or_dash(line.concurrents),
            line.time_work.join(" "),
            status,
        ]
    });
    let robots = config.robots.into_iter().map(|robot| {
        [
            robot.robot_id,
            robot.robot_name,
            robot.call_column.join(","),
        ]
    });
    let voices = config
        .voices
        .into_iter()
        .map(|voice| [voice.voice_code, voice.voice_name]);
    let urls = config.urls.into_iter().map(|url| [url.url_module, url.url]);
    print::lines(print::table(
        ["line", "calls at once", "hours", "status"],
        lines,
    ))?;
    print::lines(print::table(["robot", "name", "columns"], robots))?;
    print::lines(print::table(["voice", "name"], voices))?;
    print::lines(print::table(["pushes", "to"], urls))?;
    Ok(())
}
