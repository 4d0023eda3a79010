use clap::Args;
use crate::exit::Exit;
/// Later.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {}
pub(crate) async fn run(_: ClusterArguments) -> anyhow::Result<Exit> { anyhow::bail!("later") }
