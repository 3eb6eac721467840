//! Serves what the demo built until Ctrl-C, so that people can look around in it.

use super::{DemoArgs, say};
use anyhow::Context;
use kaplan_platform::Platform;
use kaplan_server::{Options, Server};
use std::io::IsTerminal;

/// Binds both wires when asked to, or when a person is there to look.
pub async fn bind(args: &DemoArgs) -> anyhow::Result<Option<Server>> {
    let watched = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !args.serve && (args.no_serve || !watched) {
        return Ok(None);
    }
    let options =
        Options { http: Some(args.http), postgres: Some(args.postgres), ..Options::default() };
    let server = Server::bind(options).await;
    server.map(Some).context("cannot serve: choose --http and --postgres, or --no-serve")
}

/// Serves until Ctrl-C.
pub async fn until_interrupted(server: Server, platform: &Platform) -> anyhow::Result<()> {
    if let Some(http) = server.http_addr() {
        say(&format!("Status page   http://{http}/"))?;
        say(&format!("SQL           kaplan sql --url http://{http}"))?;
    }
    if let Some(postgres) = server.postgres_addr() {
        let (host, port) = (postgres.ip(), postgres.port());
        say(&format!("PostgreSQL    psql -h {host} -p {port}"))?;
    }
    say("Ctrl-C ends.")?;
    let interrupted = async {
        // Without a handler for Ctrl-C the signal ends the process, which is as good.
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(server.run(platform.clone(), interrupted).await?)
}
