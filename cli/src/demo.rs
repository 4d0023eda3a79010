//! `semel demo`: a whole cluster, real and synthetic people, a killed node, and a report that proves what happened.

mod aftermath;
mod enrolling;
mod exact;
mod interruption;
mod report;
mod sets;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use semel_client::{Client, Settings};
use semel_proto::v1::{CreateGalleryRequest, EmbeddingSpec, ModalityPolicy, Policy, TemplateSpec, template_spec};
use semel_sandbox::{Mode, Sandbox};
use tokio::sync::watch;

use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::number::within;
use crate::output::{self, Output, Progress};
use crate::serve::stop_signal;
use enrolling::{Enrolled, enrol};
use exact::Exact;
use interruption::{Interruption, interrupt};
use report::{Findings, Report};
use sets::Set;

/// Shards of the cluster.
const SHARDS: u32 = 8;
/// The node dies once this share of the people is enrolled, in per cent, and returns at the other.
const KILLED_AT_PERCENT: usize = 40;
const RESTARTED_AT_PERCENT: usize = 60;
/// How long an enrolment is tried before its trouble counts as its answer.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a cluster of three nodes, enrols real and synthetic people, kills a node, and reports.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs a cluster of one coordinator and three nodes, each a process of its own, in a temporary folder. Two \
        clients enrol 525 real voice recordings of 49 speakers and 20,000 synthetic people, one in a hundred of them twice \
        and half of those at the same moment. In the middle one node is killed with SIGKILL and started again.\n\n\
        The report tells what was found, missed and falsely flagged, beside what the exact oracle finds by comparing \
        every pair, and what the killed node cost. Labels never go to the cluster.",
    after_help = format!("\
Examples:
    semel demo
    semel demo --people 5000 --seed 7
    semel demo --keep --data ./demo        leaves the cluster running, to look around in

{EXIT_CODES}")
)]
pub(crate) struct DemoArguments {
    /// Synthetic people, 100 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = within::<u32>(100..=1_000_000))]
    people: u32,
    /// The seed of people, orders and pairs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder of the cluster; it must not hold another. [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Leaves the cluster running after the report, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Enrolments that each of the two clients keeps in flight, 1 to 1024.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = within::<u16>(1..=1_024))]
    in_flight: u16,
    /// The engine of sealed segments: exact, sketch, faiss or faiss:FACTORY. [default: the node's own]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// References at which a growing segment is sealed, 1024 to 1048576; low, so that sealed segments take part.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = within::<usize>(1_024..=1_048_576))]
    seal_at_references: usize,
    /// How the report looks.
    #[arg(long, value_enum, default_value = "table", env = "SEMEL_OUTPUT", hide_env_values = true)]
    output: Output,
}

/// Runs `semel demo`. Whatever ends it, its processes end with it.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<Exit> {
    tokio::select! {
        // With --keep both end on the same signal: then the outcome is the demonstration's.
        biased;
        outcome = demonstrate(&arguments) => outcome,
        () = stop_signal() => anyhow::bail!("told to stop; the cluster was ended"),
    }
}

async fn demonstrate(arguments: &DemoArguments) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let (people, seed) = (arguments.people, arguments.seed);
    // Drawn while the cluster starts and the voices are enrolled.
    let drawing = tokio::task::spawn_blocking(move || sets::people(people, seed));
    let sandbox = start(arguments).await?;
    eprintln!("cluster ready after {:.1} s, data in {}", started.elapsed().as_secs_f64(), sandbox.data_dir().display());
    let client = Client::new(sandbox.endpoints(), Settings { deadline: DEADLINE, ..Settings::default() })?;
    let cluster = Cluster { client, in_flight: arguments.in_flight.into(), sandbox };

    let voices = Arc::new(sets::voices(seed)?);
    let voices_enrolled = cluster.enrol(&voices).await?;
    eprintln!("waiting for the synthetic people to be drawn");
    let people = Arc::new(drawing.await??);
    let (people_enrolled, interruption) = cluster.enrol_and_interrupt(&people).await?;

    eprintln!("comparing every pair for the exact figures while the cluster comes to rest");
    let (exact, status) = tokio::join!(
        exact_of([Arc::clone(&voices), Arc::clone(&people)]),
        aftermath::at_rest(&cluster.sandbox, [&voices, &people]),
    );
    let ([exact_voices, exact_people], status) = (exact?, status?);

    let mut report = Report::new();
    for (set, enrolled, exact) in
        [(&voices, &voices_enrolled, &exact_voices), (&people, &people_enrolled, &exact_people)]
    {
        let cases = aftermath::cases(&cluster.client, set, &enrolled.reviewed()).await.context("read the cases")?;
        report.add_set(&Findings { set, enrolled, exact, cases });
    }
    report.add_interruption(&interruption, &people_enrolled);
    report.add_end(&status, started.elapsed());
    report.show(arguments.output)?;
    if arguments.keep {
        keep(&cluster.sandbox, arguments.output).await;
    } else if arguments.output == Output::Table {
        output::line(
            "\nnext: `semel local --data ./cluster` keeps a cluster; README.md shows how to enrol your own people",
        );
    }
    Ok(if report.holds() { Exit::Done } else { Exit::Failed })
}

async fn start(arguments: &DemoArguments) -> anyhow::Result<Sandbox> {
    if let Some(folder) = &arguments.data {
        let used = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if used {
            let reason =
                format!("--data {}: is not empty; the demonstration needs a folder of its own", folder.display());
            return Err(UsageError(reason).into());
        }
    }
    let binary = std::env::current_exe().context("find this program")?;
    let mut builder = Sandbox::builder().nodes(3).replicas(3).shards(SHARDS).mode(Mode::ChildProcesses { binary });
    if let Some(folder) = &arguments.data {
        builder = builder.data_dir(folder);
    }
    if let Some(engine) = &arguments.engine {
        builder = builder.engine(engine);
    }
    let references = arguments.seal_at_references;
    builder = builder.node_settings(move |node| node.seal_at_references = references);
    eprintln!("starting one coordinator and three nodes");
    Ok(builder.start().await?)
}

async fn exact_of(sets: [Arc<Set>; 2]) -> anyhow::Result<[Exact; 2]> {
    let found = tokio::task::spawn_blocking(move || {
        let [voices, people] = sets;
        Ok::<_, anyhow::Error>([Exact::find(&voices)?, Exact::find(&people)?])
    });
    found.await?
}

/// Says where the cluster is and waits to be told to stop.
async fn keep(sandbox: &Sandbox, output: Output) {
    let endpoint = sandbox.endpoint();
    let address = endpoint.trim_start_matches("http://");
    if output == Output::Table {
        output::line(format!("\nnext: SEMEL_ADDRESS={address} semel status    (the cluster runs until Ctrl-C)"));
    }
    stop_signal().await;
}

/// The cluster and how it is used.
struct Cluster {
    sandbox: Sandbox,
    client: Client,
    in_flight: usize,
}

impl Cluster {
    async fn create_gallery(&self, set: &Set) -> anyhow::Result<()> {
        let policy = Policy {
            modalities: vec![ModalityPolicy {
                modality: set.modality.into(),
                spec: Some(TemplateSpec {
                    kind: Some(template_spec::Kind::Embedding(EmbeddingSpec { dimension: set.dimension })),
                }),
                review_threshold_micros: set.threshold.micros(),
            }],
            ..Default::default()
        };
        let request = CreateGalleryRequest { name: set.gallery.to_owned(), policy: Some(policy) };
        let created = self.client.create_gallery(request).await;
        created.with_context(|| format!("create gallery {}", set.gallery))?;
        Ok(())
    }

    async fn enrol(&self, set: &Set) -> anyhow::Result<Enrolled> {
        self.create_gallery(set).await?;
        enrol(set, &self.client, SHARDS, self.in_flight, &watch::channel(0).0, &progress(set)).await
    }

    async fn enrol_and_interrupt(&self, set: &Set) -> anyhow::Result<(Enrolled, Interruption)> {
        self.create_gallery(set).await?;
        let (sender, answers) = watch::channel(0);
        let at = |percent: usize| set.len() * percent / 100;
        let progress = progress(set);
        let say = |text: &str| progress.borrow().say(text);
        let interruption = interrupt(&self.sandbox, answers, at(KILLED_AT_PERCENT), at(RESTARTED_AT_PERCENT), say);
        tokio::try_join!(enrol(set, &self.client, SHARDS, self.in_flight, &sender, &progress), interruption)
    }
}

fn progress(set: &Set) -> RefCell<Progress> {
    RefCell::new(Progress::start(&format!("enrolling {}", set.gallery), Some(set.len() as u64)))
}
