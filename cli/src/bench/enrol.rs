use crate::exit::Exit;
use clap::Args;
/// Later.
#[derive(Debug, Args)]
pub(crate) struct EnrolArguments {}
pub(crate) async fn run(_: EnrolArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("later")
}
