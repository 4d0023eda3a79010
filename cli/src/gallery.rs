//! `semel gallery`: creates, shows, lists and governs galleries. What a policy looks like in files lives in `policy`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use semel_files::{GalleryDocument, ModalityDocument, PolicyDocument, SpecDocument};
use semel_index::SEAL_AT_REFERENCES_DEFAULT;
use semel_proto::v1::{CreateGalleryRequest, Gallery, UpdatePolicyRequest};

use crate::connect::ClientArguments;
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::number::within;
use crate::output::{self, Output, grouped};

/// How the command line calls the engine of each node's settings.
const ENGINE_DEFAULT: &str = "default";

/// Creates, shows, lists and governs galleries.
#[derive(Debug, Args)]
pub(crate) struct GalleryArguments {
    #[command(subcommand)]
    command: GalleryCommand,
}

#[derive(Debug, Subcommand)]
enum GalleryCommand {
    /// Creates a gallery; the same command again changes nothing.
    #[command(after_help = format!("\
Examples:
  Faces, 512 components, reviewed from a cosine of 0.42:
    semel gallery create people --modality face --dimension 512 --threshold 0.42
  Irises, 16 x 256 cells of 2 bits, 8 shifts either way:
    semel gallery create eyes --modality iris --rows 16 --columns 256 --bits-per-cell 2 --shifts-max 8 \\
      --common-bits-min 2048 --threshold 0.68
  Several modalities, from a file (`semel gallery get --output json` shows the form):
    semel gallery create people --policy policy.json

{EXIT_CODES}"))]
    Create(CreateArguments),
    /// Shows a gallery with its policy.
    #[command(after_help = EXIT_CODES)]
    Get {
        /// The gallery.
        name: String,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Lists every gallery.
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Puts a new policy in force. What is not given stays. Enrolments staged before keep theirs.
    #[command(after_help = format!("\
Examples:
    semel gallery update people --threshold 0.45
    semel gallery update people --engine exact
    semel gallery update people --identification-allowed true --purposes registration,missing-persons

{EXIT_CODES}"))]
    Update(UpdateArguments),
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// The name: 1 to 64 bytes of a-z, 0-9, '.', '_' and '-', starting with a letter.
    name: String,
    #[command(flatten)]
    spec: SpecFlags,
    #[command(flatten)]
    rules: RuleFlags,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
struct UpdateArguments {
    /// The gallery.
    name: String,
    /// The modality whose threshold changes; needed only where the gallery has several: face, voice, iris or fingerprint.
    #[arg(long)]
    modality: Option<String>,
    #[command(flatten)]
    rules: RuleFlags,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Templates (of one modality; use --policy for several)")]
struct SpecFlags {
    /// face, voice, iris or fingerprint.
    #[arg(long)]
    modality: Option<String>,
    /// Embeddings: number of components, 4 to 4096, a multiple of 4.
    #[arg(long, value_name = "N", value_parser = within::<u32>(4..=4_096), conflicts_with_all = ["rows", "columns", "bits_per_cell", "shifts_max", "common_bits_min"])]
    dimension: Option<u32>,
    /// Binary codes: rows, 1 to 256.
    #[arg(long, value_name = "N", value_parser = within::<u32>(1..=256), requires_all = ["columns", "bits_per_cell"])]
    rows: Option<u32>,
    /// Binary codes: columns, 1 to 4096; a shift rolls them.
    #[arg(long, value_name = "N", value_parser = within::<u32>(1..=4_096), requires = "rows")]
    columns: Option<u32>,
    /// Binary codes: bits per cell, 1 to 8.
    #[arg(long, value_name = "N", value_parser = within::<u32>(1..=8), requires = "rows")]
    bits_per_cell: Option<u32>,
    /// Binary codes: shifts tried in either direction, 0 to 64. [default: 0]
    #[arg(long, value_name = "N", value_parser = within::<u32>(0..=64), requires = "rows")]
    shifts_max: Option<u32>,
    /// Binary codes: usable bits that two masks must share to be compared. [default: a quarter of all bits]
    #[arg(long, value_name = "N", requires = "rows")]
    common_bits_min: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Policy")]
struct RuleFlags {
    /// The whole policy as JSON; flags beside it win.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Review threshold: the score that makes a candidate, 0.000001 to 1 (cosine, or 1 - fractional Hamming).
    #[arg(long, value_name = "SCORE")]
    threshold: Option<f64>,
    /// The longest candidate list, 1 to 256. [default: 64]
    #[arg(long, value_name = "N", value_parser = within::<u32>(1..=256))]
    candidates_max: Option<u32>,
    /// Share of mates that the index may miss, in parts per 1e9, 1 to 1000000. [default: 30000]
    #[arg(long, value_name = "PPB", value_parser = within::<u32>(1..=1_000_000))]
    miss_budget_ppb: Option<u32>,
    /// Share of enrolments that must be comparable for a verdict, in parts per million, 1 to 1000000. [default: 990000]
    #[arg(long, value_name = "PPM", value_parser = within::<u32>(1..=1_000_000))]
    comparable_share_min_ppm: Option<u32>,
    /// Purposes that requests may name, separated by commas. [default: any]
    #[arg(long, value_name = "PURPOSE", value_delimiter = ',')]
    purposes: Option<Vec<String>>,
    /// Whether searches without an enrolment are allowed. [default: false]
    #[arg(long, value_name = "BOOL")]
    identification_allowed: Option<bool>,
    /// Days that enrolments are to be kept; 0 = until withdrawn. Recorded; nothing is deleted by itself. [default: 0]
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// What searches sealed segments of embeddings: exact, sketch, faiss, faiss:FACTORY, or default for the engine of each node's settings. A
    /// change has segments built again in the background, on every replica; `semel status` tells which wait. A node that does not have the
    /// engine uses that of its settings. References too few for a segment of the engine are compared one by one. [default: default]
    #[arg(long, value_name = "ENGINE", value_parser = engine_name)]
    engine: Option<String>,
}

/// The name of an engine or the word for the default. Which engines there are is for the cluster to know.
fn engine_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(format!("is empty, must name an engine; `{ENGINE_DEFAULT}` is that of each node's settings"));
    }
    Ok(text.to_owned())
}

impl SpecFlags {
    fn modality(&self) -> Result<Option<ModalityDocument>, UsageError> {
        let spec = match (self.dimension, self.rows, self.columns, self.bits_per_cell) {
            (Some(dimension), ..) => SpecDocument::Embedding { dimension },
            (None, Some(rows), Some(columns), Some(bits_per_cell)) => {
                // A code out of bounds is for the cluster to refuse.
                let bits = u128::from(rows) * u128::from(columns) * u128::from(bits_per_cell);
                let quarter = u32::try_from(bits / 4).unwrap_or(u32::MAX).max(1);
                SpecDocument::BinaryCode {
                    rows,
                    columns,
                    bits_per_cell,
                    shifts_max: self.shifts_max.unwrap_or(0),
                    common_bits_min: self.common_bits_min.unwrap_or(quarter),
                }
            }
            (None, ..) if self.modality.is_some() => {
                return Err(UsageError(
                    "--modality needs --dimension, or --rows, --columns and --bits-per-cell".to_owned(),
                ));
            }
            (None, ..) => return Ok(None),
        };
        let modality = self.modality.clone().ok_or_else(|| UsageError("--modality is required".to_owned()))?;
        Ok(Some(ModalityDocument { modality, spec, threshold: 0.0 }))
    }
}

impl RuleFlags {
    fn file(&self) -> anyhow::Result<Option<PolicyDocument>> {
        let Some(path) = &self.policy else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| UsageError(format!("--policy {}: {error}", path.display())))?;
        let policy =
            serde_json::from_str(&text).map_err(|error| UsageError(format!("--policy {}: {error}", path.display())))?;
        Ok(Some(policy))
    }

    /// Lets the flags win over the policy; `modality` says whose threshold is meant where there are several.
    fn apply(&self, policy: &mut PolicyDocument, modality: Option<&str>) -> Result<(), UsageError> {
        if let Some(threshold) = self.threshold {
            let mut meant: Vec<_> = policy
                .modalities
                .iter_mut()
                .filter(|each| modality.is_none_or(|name| each.modality.eq_ignore_ascii_case(name)))
                .collect();
            match meant.as_mut_slice() {
                [one] => one.threshold = threshold,
                [] => return Err(UsageError("--threshold: the policy has no such modality".to_owned())),
                _ => return Err(UsageError("--threshold: the policy has several modalities; name one".to_owned())),
            }
        }
        fn set<T: Clone>(flag: Option<&T>, value: &mut T) {
            if let Some(flag) = flag {
                value.clone_from(flag);
            }
        }
        set(self.candidates_max.as_ref(), &mut policy.candidates_max);
        set(self.miss_budget_ppb.as_ref(), &mut policy.miss_budget_ppb);
        set(self.comparable_share_min_ppm.as_ref(), &mut policy.comparable_share_min_ppm);
        set(self.purposes.as_ref(), &mut policy.purposes);
        set(self.identification_allowed.as_ref(), &mut policy.identification_allowed);
        set(self.retention_days.as_ref(), &mut policy.retention_days);
        if let Some(name) = &self.engine {
            policy.engine = if name == ENGINE_DEFAULT { String::new() } else { name.clone() };
        }
        Ok(())
    }
}

impl CreateArguments {
    fn policy(&self) -> anyhow::Result<PolicyDocument> {
        let mut policy = self.rules.file()?.unwrap_or_default();
        if let Some(modality) = self.spec.modality()? {
            if !policy.modalities.is_empty() {
                return Err(UsageError("--policy lists the modalities: leave out --modality".to_owned()).into());
            }
            if self.rules.threshold.is_none() {
                return Err(UsageError("--threshold is required".to_owned()).into());
            }
            policy.modalities.push(modality);
        }
        if policy.modalities.is_empty() {
            return Err(UsageError("name the templates: --modality with --dimension, or --policy".to_owned()).into());
        }
        self.rules.apply(&mut policy, None)?;
        Ok(policy)
    }
}

/// Runs `semel gallery`.
pub(crate) async fn run(arguments: GalleryArguments) -> anyhow::Result<Exit> {
    match arguments.command {
        GalleryCommand::Create(create) => {
            let request = CreateGalleryRequest {
                name: create.name.clone(),
                policy: Some(create.policy()?.to_wire().map_err(UsageError::from)?),
            };
            let gallery = create.client.client()?.create_gallery(request).await.context("create the gallery")?;
            note_engine(&gallery);
            show(&[gallery], create.client.output)
        }
        GalleryCommand::Get { name, client } => {
            let gallery = client.client()?.gallery(name).await?;
            show(&[gallery], client.output)
        }
        GalleryCommand::List { client } => {
            let galleries = client.client()?.galleries().await?;
            show(&galleries, client.output)
        }
        GalleryCommand::Update(update) => run_update(update).await,
    }
}

async fn run_update(update: UpdateArguments) -> anyhow::Result<Exit> {
    let file = update.rules.file()?;
    let client = update.client.client()?;
    let current = client.gallery(update.name.clone()).await?.policy.context("the gallery has no policy")?;
    let mut policy = file.unwrap_or_else(|| PolicyDocument::from_wire(&current));
    update.rules.apply(&mut policy, update.modality.as_deref())?;
    let request = UpdatePolicyRequest {
        name: update.name,
        policy: Some(policy.to_wire().map_err(UsageError::from)?),
        // Whoever changed it meanwhile must not be overwritten.
        expected_version: current.version,
    };
    let gallery = client.update_policy(request).await.context("update the policy")?;
    note_engine(&gallery);
    show(&[gallery], update.client.output)
}

/// Says so where the engine in force needs more references than segments usually have.
fn note_engine(gallery: &Gallery) {
    if let Some(policy) = &gallery.policy
        && let Some(note) = many_needed(&PolicyDocument::from_wire(policy))
    {
        output::note(note);
    }
}

/// Nothing of engines that this build does not have: those who run the nodes see it in the status.
fn many_needed(policy: &PolicyDocument) -> Option<String> {
    let engine = semel_node::engine(&policy.engine).ok()?;
    let dimension = |modality: &ModalityDocument| match modality.spec {
        SpecDocument::Embedding { dimension } => Some(dimension),
        SpecDocument::BinaryCode { .. } => None,
    };
    let needed =
        policy.modalities.iter().filter_map(dimension).map(|dimension| engine.references_min(dimension)).max()?;
    let name = engine.name();
    match needed {
        ..=SEAL_AT_REFERENCES_DEFAULT => None,
        usize::MAX => Some(format!("{name} takes no embeddings of this dimension: they are compared one by one")),
        _ => Some(format!(
            "{name} needs {} references for a segment, which has {} by default: a shard with fewer compares them one by one; \
             semel status tells how many",
            grouped(needed as u64),
            grouped(SEAL_AT_REFERENCES_DEFAULT as u64)
        )),
    }
}

fn show(galleries: &[Gallery], output: Output) -> anyhow::Result<Exit> {
    let documents: Vec<GalleryDocument> = galleries.iter().map(GalleryDocument::from_wire).collect();
    match output {
        Output::Json => documents.iter().try_for_each(output::json)?,
        Output::Table if documents.is_empty() => output::line("no galleries yet; `semel gallery create` makes one"),
        Output::Table => {
            let mut table = output::table([
                "gallery",
                "policy",
                "modality",
                "template",
                "threshold",
                "candidates",
                "identification",
                "engine",
            ]);
            for gallery in &documents {
                for modality in &gallery.policy.modalities {
                    table.add_row([
                        gallery.name.clone(),
                        format!("version {}", gallery.policy.version),
                        modality.modality.clone(),
                        modality.spec.to_string(),
                        modality.threshold.to_string(),
                        format!("up to {}", gallery.policy.candidates_max),
                        if gallery.policy.identification_allowed { "allowed" } else { "off" }.to_owned(),
                        if gallery.policy.engine.is_empty() { ENGINE_DEFAULT } else { &gallery.policy.engine }
                            .to_owned(),
                    ]);
                }
            }
            table.show();
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "faiss")]
    #[test]
    fn an_engine_that_needs_very_many_references_is_told_of() {
        let check = |engine: &str, dimension: u32, expected: Option<&str>| {
            let spec = SpecDocument::Embedding { dimension };
            let modalities = vec![ModalityDocument { modality: "face".to_owned(), spec, threshold: 0.42 }];
            let policy = PolicyDocument { modalities, engine: engine.to_owned(), ..PolicyDocument::default() };
            let note = many_needed(&policy);
            assert_eq!(note.as_deref().and_then(|note| note.split(" for a").next()), expected, "{engine}");
        };
        check("faiss:IVF4096,Flat", 512, Some("faiss:IVF4096,Flat needs 159,744 references"));
        check("sketch", 4, Some("sketch takes no embeddings of this dimension: they are compared one by one"));
        for usual in ["", "exact", "sketch", "faiss", "faiss:IVF64,Flat", "magic"] {
            check(usual, 512, None);
        }
    }

    /// It was once taken for the default.
    #[test]
    fn an_empty_engine_is_refused() {
        assert!(engine_name("").expect_err("refused").contains("`default`"));
        assert_eq!(engine_name("default").as_deref(), Ok("default"));
    }
}
