//! `semel bench plot`: saved results of several runs and programs, drawn side by side.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::results::{self, Line, Row, missed};
use super::shown;
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::output::{self, Output, grouped};

/// More lines cannot be told apart.
const LINES_MAX: usize = 40;
/// Pixels of the whole, of the head and of the names at the right.
const SIZE: (u32, u32) = (1_500, 980);
const HEAD: u32 = 70;
const NAMES: u32 = 380;
/// Pixels between two names.
const NAME_HEIGHT: i32 = 22;
/// Characters of a name that fit beside the panels.
const NAME_CHARACTERS: usize = 56;
const FONT: &str = "sans-serif";
/// Colours that people tell apart, whatever colours they see (Okabe and Ito), without the yellow.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// Draws saved results of engines over the number of references.
#[derive(Debug, Args)]
#[command(
    long_about = "Shows the rows of files that `semel bench engines --save` or `cli/bench/peers.py` wrote in one table, and draws them as SVG: \
        probes per second, one by one and in batches, and the share of mates missed, over the number of references N, with one \
        line for each engine. All scales are logarithmic.\n\nRows of one engine are joined where population, components, threshold, threads, \
        processor and kernel are the same; what differs is said with the name. Of two rows of the same, the newer counts.\n\nOf mates missed, \
        a dot is the share and the line runs through its upper bound, with a confidence of 95 %; where nothing was missed there is \
        only the bound, which more mates bring down.",
    after_help = format!("\
Examples:
    semel bench engines --references 10000,100000,1000000 --save engines.json
    semel bench plot engines.json peers.json --out engines.svg

{EXIT_CODES}")
)]
pub(crate) struct PlotArguments {
    /// Saved results.
    #[arg(required = true, value_name = "RESULTS.json")]
    results: Vec<PathBuf>,
    /// The drawing; a file that is there is replaced.
    #[arg(long, value_name = "FILE.svg")]
    out: PathBuf,
    /// How the rows look on the terminal.
    #[arg(long, value_enum, default_value = "table", env = "SEMEL_OUTPUT", hide_env_values = true)]
    output: Output,
}

/// Runs `semel bench plot`.
pub(crate) fn run(arguments: &PlotArguments) -> anyhow::Result<Exit> {
    super::writable("--out", &arguments.out)?;
    let rows = results::read(&arguments.results).map_err(unreadable)?;
    write("--out", &arguments.out, &rows)?;
    match arguments.output {
        Output::Table => {
            results::show(&rows);
            results::show_growth(&rows);
            results::show_scaling(&rows);
        }
        Output::Json => results::print(rows)?,
    }
    Ok(Exit::Done)
}

/// Whatever keeps results from being read, a file that is not there or is of something else, is the caller's to mend.
fn unreadable(error: anyhow::Error) -> UsageError {
    UsageError(format!(
        "{error:#}; it must be a file that `semel bench engines --save` or `cli/bench/peers.py --save` of this version wrote"
    ))
}

/// Writes the drawing of some rows to a file, which `field` of the command line named.
pub(super) fn write(field: &str, file: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let lines = results::lines(rows);
    if lines.is_empty() {
        return Err(UsageError("the results have no rows: there is nothing to draw".to_owned()).into());
    }
    if lines.len() > LINES_MAX {
        return Err(UsageError(format!("{} lines: a drawing has at most {LINES_MAX}", lines.len())).into());
    }
    let drawn = draw(&lines).with_context(|| format!("draw {}", file.display()))?;
    std::fs::write(file, drawn).with_context(|| format!("{field} {}", file.display()))
}

/// A line with what marks it.
struct Marked<'l, 'r> {
    line: &'l Line<'r>,
    colour: RGBColor,
    /// Triangles after the colours were used once, and so on.
    mark: usize,
    /// Where its points lie beside others of the same N, as a factor.
    beside: f64,
}

fn draw(lines: &[Line]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw_on(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), lines)?;
    Ok(text)
}

fn draw_on(root: &Area, lines: &[Line]) -> anyhow::Result<()> {
    root.fill(&WHITE)?;
    let references = || lines.iter().flat_map(|line| &line.rows).map(|row| f64::from(row.references));
    let across = around(references(), 1.3).unwrap_or(1.0..10.0);
    let step = (across.end / across.start).powf(0.006);
    let marked: Vec<Marked> = lines
        .iter()
        .enumerate()
        .map(|(place, line)| Marked {
            line,
            colour: COLOURS[place % COLOURS.len()],
            mark: place / COLOURS.len(),
            beside: step.powf(place as f64 - (lines.len() - 1) as f64 / 2.0),
        })
        .collect();

    let (head, below) = root.split_vertically(HEAD);
    head.draw(&Text::new("semel bench engines", (20, 14), (FONT, 24)))?;
    head.draw(&Text::new(common(lines), (20, 46), (FONT, 15)))?;
    let (panels, names) = below.split_horizontally(SIZE.0 - NAMES);
    draw_names(&names, &marked, lines)?;
    let panels = panels.split_evenly((2, 2));
    let rate = |of: fn(&Row) -> f64| move |row: &Row| Some((of(row), of(row)));
    let one_by_one = rate(|row| row.one_by_one_probes_per_second);
    let batched = rate(|row| row.batched_probes_per_second);
    let bound = |of: fn(&Row) -> (u64, u64)| {
        move |row: &Row| {
            let (count, all) = of(row);
            missed(count, all).map(|missed| (missed.share, missed.at_most))
        }
    };
    let mates = bound(|row| (row.mates_missed, row.mates));
    let planted = bound(|row| (row.planted_missed, row.planted));
    let batches = format!("probes/s, batches of {}", lines[0].rows[0].batch);
    draw_panel(&panels[0], "probes/s, one by one", &across, &marked, one_by_one, shown)?;
    draw_panel(&panels[1], &batches, &across, &marked, batched, shown)?;
    draw_panel(&panels[2], "mates missed: other captures", &across, &marked, mates, results::share)?;
    draw_panel(
        &panels[3],
        "mates missed: planted just above the threshold",
        &across,
        &marked,
        planted,
        results::share,
    )?;
    Ok(root.present()?)
}

/// What all lines have in common.
fn common(lines: &[Line]) -> String {
    let first = lines[0].rows[0].conditions();
    let same = |place: usize| lines.iter().all(|line| line.rows[0].conditions()[place] == first[place]);
    let said = first.iter().enumerate().filter(|(place, _)| same(*place));
    let said: Vec<String> = said.map(|(_, (name, value))| format!("{name} {}", output::escaped(value))).collect();
    said.join(", ")
}

/// The name of a line: its engine, and in what it differs from others of that engine.
fn name(line: &Line, lines: &[Line]) -> String {
    let own = line.rows[0];
    let alike = || lines.iter().map(|line| line.rows[0]).filter(|row| row.engine == own.engine);
    let mut name = own.engine.clone();
    for (place, (condition, value)) in own.conditions().into_iter().enumerate() {
        if alike().any(|row| row.conditions()[place].1 != value) {
            name.push_str(&format!(", {condition} {value}"));
        }
    }
    if let Some(growth) = line.growth() {
        name.push_str(&format!(" (cost ~ N^{:.2})", growth.one_by_one));
    }
    let name = output::escaped(&name);
    match name.char_indices().nth(NAME_CHARACTERS) {
        None => name,
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_names(area: &Area, marked: &[Marked], lines: &[Line]) -> anyhow::Result<()> {
    for (place, line) in (0..).zip(marked) {
        let y = 14 + place * NAME_HEIGHT;
        area.draw(&PathElement::new([(6, y), (30, y)], line.colour.stroke_width(2)))?;
        area.draw(&(EmptyElement::at((18, y)) + mark(line)))?;
        let style = TextStyle::from((FONT, 13).into_font()).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name(line.line, lines), (38, y), style))?;
    }
    Ok(())
}

/// Draws one figure of every row: its value, and what the line runs through, which is the value itself or a bound above it.
fn draw_panel(
    area: &Area,
    title: &str,
    across: &Range<f64>,
    marked: &[Marked],
    value: impl Fn(&Row) -> Option<(f64, f64)>,
    label: impl Fn(f64) -> String,
) -> anyhow::Result<()> {
    let all = || marked.iter().flat_map(|marked| &marked.line.rows).filter_map(|row| value(row));
    let drawn = all().flat_map(|(value, through)| [value, through]).filter(|value| *value > 0.0);
    let Some(along) = around(drawn, 1.6) else {
        return Ok(area.draw(&Text::new(format!("{title}: none measured"), (60, 40), (FONT, 16)))?);
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(across.clone().log_scale(), along.clone().log_scale())?;
    chart
        .configure_mesh()
        .x_desc("references, N")
        .x_labels(6)
        .y_labels(8)
        .x_label_formatter(&|references| grouped(references.round() as u64))
        .y_label_formatter(&|value| label(*value))
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .label_style((FONT, 12))
        .draw()?;
    for line in marked {
        let points = || {
            let valued = line.line.rows.iter().filter_map(|row| Some((row.references, value(row)?)));
            valued.map(|(references, value)| (f64::from(references), value))
        };
        let bounded = points().any(|(_, (value, through))| through > value);
        let place = |references: f64| if bounded { references * line.beside } else { references };
        let through = points().map(|(references, (_, through))| (place(references), through));
        chart.draw_series(LineSeries::new(through, line.colour.stroke_width(if bounded { 1 } else { 2 })))?;
        for (references, (value, through)) in points() {
            let x = place(references);
            if bounded {
                let foot = if value > 0.0 { value } else { along.start };
                chart
                    .draw_series([PathElement::new([(x, foot), (x, through)], line.colour.mix(0.4).stroke_width(1))])?;
                let bar = [(-5, 0), (5, 0)];
                chart.draw_series([
                    EmptyElement::at((x, through)) + PathElement::new(bar, line.colour.stroke_width(2))
                ])?;
            }
            if value > 0.0 {
                chart.draw_series([EmptyElement::at((x, value)) + mark(line)])?;
            }
        }
    }
    Ok(())
}

/// The mark of a line around where it is put.
fn mark(line: &Marked) -> Polygon<(i32, i32)> {
    let corners: &[(i32, i32)] = match line.mark {
        0 => &[(-4, -2), (-2, -4), (2, -4), (4, -2), (4, 2), (2, 4), (-2, 4), (-4, 2)],
        1 => &[(0, -5), (5, 4), (-5, 4)],
        2 => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        3 => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        4 => &[(0, 5), (5, -4), (-5, -4)],
        _ => &[(-1, -6), (1, -6), (1, 6), (-1, 6)],
    };
    Polygon::new(corners.to_vec(), line.colour.filled())
}

/// The range of some positive values with room around it on a logarithmic scale; none of no values.
fn around(values: impl Iterator<Item = f64>, room: f64) -> Option<Range<f64>> {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    (least <= most).then(|| least / room..most * room)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::row;
    use super::*;

    #[test]
    fn the_drawing_is_written_with_a_line_for_each_engine() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("engines.svg");
        let mut rows: Vec<Row> = [1_000, 10_000, 100_000].map(|references| row("sketch", references)).to_vec();
        rows.push(Row { threads: 2, ..row("sketch", 1_000) });
        rows.push(Row { mates_missed: 300, ..row("<usearch> & \"ef\"=64\u{1b}", 10_000) });
        rows.push(Row { mates: 0, planted: 0, mates_missed: 0, planted_missed: 0, ..row("none", 10_000) });
        write("--plot", &file, &rows).expect("drawn");
        let drawn = std::fs::read_to_string(&file).expect("text");
        assert!(drawn.starts_with("<svg ") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
        for part in [
            "sketch, threads 1 (cost ~ N^1.00)",
            "sketch, threads 2",
            "&lt;usearch&gt; &amp; ",
            "threshold 0.42",
            "100,000",
        ] {
            assert!(drawn.contains(part), "{part} is not in {drawn}");
        }
        assert!(!drawn.contains("<usearch>") && !drawn.contains('\u{1b}') && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn one_size_of_one_engine_is_drawn_too() {
        let drawn = draw(&results::lines(&[row("sketch", 1_000)])).expect("drawn");
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }

    #[test]
    fn nothing_and_too_much_is_refused_in_words() {
        let told = |rows: &[Row]| write("--plot", Path::new("nowhere.svg"), rows).expect_err("refused").to_string();
        assert_eq!(told(&[]), "the results have no rows: there is nothing to draw");
        let many: Vec<Row> = (0..41).map(|number| row(&format!("engine {number}"), 1_000)).collect();
        assert_eq!(told(&many), "41 lines: a drawing has at most 40");
    }
}
