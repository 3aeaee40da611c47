//! The plot: for each concurrency a panel, in it for each combination which share of the answers took how long at most. Stubs
//! are told by their marks, upstreams by their dashes; colours only repeat that.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use dot_proxy::cli::Stub;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::combination::Combination;
use crate::measurement::{Cell, Measured};
use crate::plan::Plan;

/// In pixels: the whole plot, a panel without its legend, a line of the legend and the dash in it.
const WIDTH: u32 = 960;
const PANEL: u32 = 420;
const LEGEND_LINE: u32 = 22;
const LEGEND_DASH: i32 = 60;

/// Where a panel's legend begins, from the left.
const LEGEND_AT: i32 = 76;

/// At most so many latencies are named on the axis.
const LABELS: usize = 20;

/// Of each line there are so many points.
const POINTS: usize = 200;

/// Marks stand at so many of them.
const MARKS: usize = 8;

/// Lengths of a dash and of the gap behind it, in pixels, for the first upstream, the second …
const DASHES: [(i32, i32); 5] = [(1, 0), (8, 5), (2, 4), (16, 4), (4, 10)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An error of the drawing itself.
type Wrong<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// The lines of one concurrency.
struct Panel<'a> {
    concurrency: usize,
    lines: Vec<Line<'a>>,
}

/// A line of the plot.
struct Line<'a> {
    combination: &'a Combination,
    /// Place of its upstream among the upstreams.
    upstream: usize,
    /// Milliseconds, and the share of the answers that took no longer.
    points: Vec<(f64, f64)>,
}

/// Whether a file can be written there, as far as can be told without writing it.
pub(crate) fn check(file: &Path) -> Result<(), String> {
    if file.is_dir() {
        return Err("is a directory: name a file".to_owned());
    }
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    match directory {
        Some(directory) if !directory.is_dir() => Err(format!("there is no directory {}", directory.display())),
        _ => Ok(()),
    }
}

/// Draws the plot as SVG. `None` where nothing was answered.
pub(crate) fn draw(plan: &Plan, measured: &Measured) -> Result<Option<String>, String> {
    let by_concurrency = measured.cells.chunk_by(|one, two| one.concurrency == two.concurrency);
    let panels: Vec<_> = by_concurrency
        .map(|cells| Panel {
            concurrency: cells[0].concurrency,
            lines: cells.iter().filter_map(|cell| line(plan, cell)).collect(),
        })
        .filter(|panel| !panel.lines.is_empty())
        .collect();
    let latencies = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points).map(|(ms, _)| *ms);
    let (Some(shortest), Some(longest)) = (latencies().min_by(f64::total_cmp), latencies().max_by(f64::total_cmp))
    else {
        return Ok(None);
    };
    let range = shortest * 0.8..longest * 1.25;
    let mut svg = String::new();
    let size = (WIDTH, panels.iter().map(Panel::height).sum());
    draw_panels(&SVGBackend::with_string(&mut svg, size).into_drawing_area(), &panels, &range)
        .map_err(|error| error.to_string())?;
    Ok(Some(svg))
}

fn draw_panels<'a>(area: &Area<'a>, panels: &[Panel<'_>], range: &Range<f64>) -> Result<(), Wrong<'a>> {
    area.fill(&WHITE)?;
    let mut rest = area.clone();
    for panel in panels {
        let (own, below) = rest.split_vertically(panel.height());
        let (chart, legend) = own.split_vertically(PANEL);
        panel.draw(&chart, range.clone())?;
        for (place, line) in panel.lines.iter().enumerate() {
            line.draw_legend(&legend, i32::try_from(place).unwrap_or(i32::MAX))?;
        }
        rest = below;
    }
    area.present()
}

/// The distribution of one cell; `None` without answers.
fn line<'a>(plan: &'a Plan, cell: &Cell) -> Option<Line<'a>> {
    let mut latencies: Vec<Duration> =
        cell.slices.iter().flatten().flat_map(|slice| slice.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    let step = latencies.len().div_ceil(POINTS);
    let ranks = (0..latencies.len()).step_by(step).chain((!last.is_multiple_of(step)).then_some(last));
    let points = ranks.map(|rank| (latencies[rank].as_secs_f64() * 1e3, (rank + 1) as f64 / latencies.len() as f64));
    let combination = &plan.combinations[cell.combination];
    let mut upstreams: Vec<_> = plan.combinations.iter().map(|combination| &combination.upstream).collect();
    upstreams.dedup();
    let upstream = upstreams.iter().position(|upstream| **upstream == combination.upstream).unwrap_or_default();
    Some(Line { combination, upstream, points: points.collect() })
}

impl Panel<'_> {
    /// In pixels, with its legend.
    fn height(&self) -> u32 {
        PANEL + LEGEND_LINE * (u32::try_from(self.lines.len()).unwrap_or(u32::MAX) + 1)
    }

    fn draw<'a>(&self, area: &Area<'a>, range: Range<f64>) -> Result<(), Wrong<'a>> {
        let at = match self.concurrency {
            1 => "one query at a time".to_owned(),
            many => format!("{many} queries at once"),
        };
        let mut chart = ChartBuilder::on(area)
            .caption(format!("Latency, {at}"), font(20))
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(range.clone().log_scale().with_key_points(labelled(&range)), 0.0..1.0)?;
        chart
            .configure_mesh()
            .x_desc("Latency in milliseconds (logarithmic)")
            .y_desc("Answers within it, in percent")
            .x_labels(LABELS)
            .x_label_formatter(&f64::to_string)
            .y_label_formatter(&|share| format!("{:.0}", share * 100.0))
            .axis_desc_style(font(15))
            .label_style(font(13))
            .bold_line_style(BLACK.mix(0.2))
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        for line in &self.lines {
            let points = || line.points.iter().copied();
            match line.dash() {
                (_, 0) => chart.draw_series(LineSeries::new(points(), line.style()))?,
                (dash, gap) => chart.draw_series(DashedLineSeries::new(points(), dash, gap, line.style()))?,
            };
        }
        // By the pixel: a mark is as large as in the legend.
        let (left, top) = area.get_base_pixel();
        for line in &self.lines {
            for point in line.marked() {
                let (x, y) = chart.backend_coord(&point);
                draw_mark(area, line.combination.stub, (x - left, y - top))?;
            }
        }
        Ok(())
    }
}

impl Line<'_> {
    fn style(&self) -> ShapeStyle {
        ShapeStyle { color: colour(self.combination.stub).to_rgba(), filled: false, stroke_width: 2 }
    }

    /// A dash and the gap behind it.
    fn dash(&self) -> (i32, i32) {
        DASHES[self.upstream % DASHES.len()]
    }

    /// Where marks stand: not at the same height for all stubs, so that lines that lie on each other are told apart.
    fn marked(&self) -> impl Iterator<Item = (f64, f64)> {
        let every = self.points.len().div_ceil(MARKS);
        let place = Stub::value_variants().iter().position(|stub| *stub == self.combination.stub).unwrap_or_default();
        self.points.iter().copied().skip(every * place / Stub::value_variants().len()).step_by(every)
    }

    fn draw_legend<'a>(&self, area: &Area<'a>, place: i32) -> Result<(), Wrong<'a>> {
        let y = place * i32::try_from(LEGEND_LINE).unwrap_or(i32::MAX) + 10;
        let (dash, gap) = match self.dash() {
            (_, 0) => (LEGEND_DASH, 0),
            dash => dash,
        };
        for from in (0..LEGEND_DASH).step_by(usize::try_from(dash + gap).unwrap_or(usize::MAX)) {
            let to = (from + dash).min(LEGEND_DASH);
            area.draw(&PathElement::new([(LEGEND_AT + from, y), (LEGEND_AT + to, y)], self.style()))?;
        }
        draw_mark(area, self.combination.stub, (LEGEND_AT + LEGEND_DASH / 2, y))?;
        let text = font(14).color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(self.combination.to_string(), (LEGEND_AT + LEGEND_DASH + 12, y), text))
    }
}

fn draw_mark<'a>(area: &Area<'a>, stub: Stub, (x, y): (i32, i32)) -> Result<(), Wrong<'a>> {
    const R: i32 = 4;
    let filled = ShapeStyle { color: colour(stub).to_rgba(), filled: true, stroke_width: 2 };
    let outline = ShapeStyle { filled: false, ..filled };
    match stub {
        Stub::Ssock => area.draw(&Circle::new((x, y), R, filled)),
        Stub::Doh => area.draw(&Rectangle::new([(x - R, y - R), (x + R, y + R)], filled)),
        Stub::Doq => area.draw(&TriangleMarker::new((x, y), R + 2, filled)),
        Stub::Curl => area.draw(&Cross::new((x, y), R, filled)),
        Stub::Kdig => {
            area.draw(&Circle::new((x, y), R, WHITE.filled()))?;
            area.draw(&Circle::new((x, y), R, outline))
        }
    }
}

fn font(size: i32) -> FontDesc<'static> {
    (FontFamily::SansSerif, size).into_font()
}

/// The latencies that the axis names: 1, 2, 5, 10 …
fn labelled(range: &Range<f64>) -> Vec<f64> {
    const LADDER: [f64; 18] = [
        0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0,
        20_000.0,
    ];
    LADDER.into_iter().filter(|ms| range.contains(ms)).collect()
}

/// Colours that are told apart by the colour-blind too, and are dark enough on white.
fn colour(stub: Stub) -> RGBColor {
    match stub {
        Stub::Ssock => BLACK,
        Stub::Doh => RGBColor(0, 90, 160),
        Stub::Doq => RGBColor(190, 70, 0),
        Stub::Curl => RGBColor(0, 120, 90),
        Stub::Kdig => RGBColor(150, 60, 120),
    }
}
