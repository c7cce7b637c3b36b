//! Plots of measured figures, as SVG: for each figure its medians as bars, and curves where a benchmark has some. They
//! follow a page's dark colours.

use std::ops::Range;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::series::{Series, Spread, Unit};

const WIDTH: u32 = 860;
const BAR: u32 = 26;
const AROUND: u32 = 96;
const FONT: (&str, i32) = ("sans-serif", 14);
const TITLE: (&str, i32) = ("sans-serif", 18);
/// Colour-blind safe (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Turns light into dark, and keeps the hues.
const DARK: &str =
    "<style>@media (prefers-color-scheme: dark){svg{filter:invert(0.92) hue-rotate(180deg)}}</style>\n";

/// A plot with lines: how a figure depends on something.
#[derive(Debug, Clone)]
pub struct Curves {
    /// What it shows; the file is named after it.
    pub title: String,
    /// What goes to the right, on a logarithmic scale.
    pub x: String,
    /// What goes up, from 0.
    pub unit: Unit,
    /// A name and its points, from left to right, each lower `x` above 0.
    pub lines: Vec<(String, Vec<(f64, Spread)>)>,
}

/// All plots of a benchmark with the names of their files: a figure that has at least two subjects gets bars.
///
/// # Errors
/// When the library cannot draw.
pub fn all(benchmark: &str, series: &[Series], curves: &[Curves]) -> anyhow::Result<Vec<(String, String)>> {
    let mut plots = vec![];
    let mut figures: Vec<&str> = vec![];
    for series in series {
        if !figures.contains(&series.figure.as_str()) {
            figures.push(&series.figure);
        }
    }
    for figure in figures {
        let of = series.iter().filter(|series| series.figure == figure);
        let of: Vec<_> = of.filter_map(|series| Some((series, series.spread()?))).collect();
        if of.len() > 1 {
            plots.push((file_name(benchmark, figure), bars(figure, &of)?));
        }
    }
    for curves in curves.iter().filter(|curves| curves.lines.iter().any(|(_, line)| line.len() > 1)) {
        plots.push((file_name(benchmark, &curves.title), lines(curves)?));
    }
    Ok(plots)
}

/// `tcp-new-connections.svg`.
fn file_name(benchmark: &str, figure: &str) -> String {
    let words = figure.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(str::to_ascii_lowercase).collect();
    format!("{benchmark}-{}.svg", words.join("-"))
}

/// Medians as bars, the middle half as a line across the end of each; two series at least.
fn bars(title: &str, series: &[(&Series, Spread)]) -> anyhow::Result<String> {
    let unit = series[0].0.unit;
    let count = series.len() as u32;
    let highest = series.iter().map(|(_, spread)| spread.p75).fold(0.0, f64::max);
    let end = if highest > 0.0 { highest * 1.15 } else { 1.0 };
    let longest = series.iter().map(|(series, _)| series.subject.chars().count()).max().unwrap_or(0) as u32;
    draw(AROUND + BAR * count, |area| {
        // From the bottom up, as the axis counts.
        let name =
            |index: u32| series.iter().rev().nth(index as usize).map(|(series, _)| series.subject.as_str());
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{title} ({})", unit.axis()), TITLE)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size((longest * 8).clamp(60, WIDTH / 2))
            .build_cartesian_2d(0.0..end, (0..count - 1).into_segmented())?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .max_light_lines(1)
            .y_labels(series.len() + 1)
            .label_style(FONT)
            .x_label_formatter(&|value| short(unit, *value))
            .y_label_formatter(&|place| match place {
                SegmentValue::CenterOf(index) => name(*index).unwrap_or_default().to_owned(),
                SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
            })
            .draw()?;
        let place = |index: usize| count - 1 - index as u32;
        chart.draw_series(series.iter().enumerate().map(|(index, (_, spread))| {
            let place = place(index);
            let upper = if place + 1 < count { SegmentValue::Exact(place + 1) } else { SegmentValue::Last };
            let corners = [(0.0, SegmentValue::Exact(place)), (spread.median.max(0.0), upper)];
            let mut bar = Rectangle::new(corners, COLOURS[0].filled());
            bar.set_margin(4, 4, 0, 0);
            bar
        }))?;
        chart.draw_series(series.iter().enumerate().map(|(index, (_, spread))| {
            let middle = SegmentValue::CenterOf(place(index));
            PathElement::new([(spread.p25.max(0.0), middle.clone()), (spread.p75.max(0.0), middle)], BLACK)
        }))?;
        Ok(())
    })
}

/// Medians as lines, the middle half as a bar at each point.
fn lines(curves: &Curves) -> anyhow::Result<String> {
    let points = || curves.lines.iter().flat_map(|(_, line)| line);
    let left = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
    let right = points().map(|(x, _)| *x).fold(f64::NEG_INFINITY, f64::max);
    let top = points().map(|(_, spread)| spread.p75).fold(0.0, f64::max) * 1.1;
    let across: Range<f64> = left..right.max(left * 2.0);
    draw(480, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(&curves.title, TITLE)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(across.log_scale(), 0.0..top.max(f64::MIN_POSITIVE))?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .x_desc(&curves.x)
            .y_desc(curves.unit.axis())
            .label_style(FONT)
            .x_label_formatter(&|value| short(Unit::Count, *value))
            .y_label_formatter(&|value| short(curves.unit, *value))
            .draw()?;
        for (index, (name, line)) in curves.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let medians = line.iter().map(|(x, spread)| (*x, spread.median));
            chart
                .draw_series(LineSeries::new(medians.clone(), colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(medians.map(|point| Circle::new(point, 3, colour.filled())))?;
            chart.draw_series(
                line.iter().map(|(x, spread)| PathElement::new([(*x, spread.p25), (*x, spread.p75)], colour)),
            )?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(FONT)
            .draw()?;
        Ok(())
    })
}

/// A value at an axis: whole numbers without digits behind the point.
fn short(unit: Unit, value: f64) -> String {
    let text = match unit {
        Unit::Bytes | Unit::BitsPerSecond => return unit.text(value),
        Unit::Seconds if value != 0.0 && value.abs() < 1.0 => return unit.text(value),
        _ => Unit::Count.text(value),
    };
    if value.fract() == 0.0 { text.split('.').next().unwrap_or_default().to_owned() } else { text }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(
    height: u32,
    content: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| content(&area));
        let drawn = drawn.and_then(|()| area.present().map_err(Into::into));
        drawn.map_err(|error| anyhow!("drawing: {error}"))?;
    }
    // After the opening tag, which is a line of its own.
    let begin = svg.find('\n').map_or(svg.len(), |end| end + 1);
    svg.insert_str(begin, DARK);
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(figure: &str, subject: &str, median: f64) -> Series {
        let samples = [median - 1.0, median, median + 1.0].map(Some).to_vec();
        Series { samples, ..Series::new(figure, subject, Unit::Nanoseconds) }
    }

    #[test]
    fn a_figure_with_subjects_to_compare_gets_bars_with_their_names() {
        let all = all(
            "packet",
            &[series("net", "nat", 120.0), series("net", "Katran", 246.0), series("x", "y", 1.0)],
            &[],
        )
        .unwrap();
        let [(name, svg)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(name, "packet-net.svg");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        let at = |text: &str| svg.find(text).unwrap_or_else(|| panic!("no {text}:\n{svg}"));
        assert!(at("prefers-color-scheme") < at("net (ns)"));
        assert!(at("nat") > 0 && at("Katran") > 0);
        // Two bars, as long as their medians: the background is the first rectangle.
        let bars = || svg.lines().filter(|line| line.starts_with("<rect") && line.contains("#0072B2"));
        let number = |line: &str, name: &str| -> Option<f64> {
            line.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?.parse().ok()
        };
        let widths: Vec<_> = bars().filter_map(|bar| number(bar, "width")).collect();
        // The first is above the second, as are their names.
        let places: Vec<_> = bars().filter_map(|bar| number(bar, "y")).collect();
        assert!(places[0] < places[1] && at(">\nnat\n") > at(">\nKatran\n"), "{svg}");
        assert_eq!(widths.len(), 2, "{svg}");
        assert!((widths[1] / widths[0] - 246.0 / 120.0).abs() < 0.1, "{widths:?}");
    }

    #[test]
    fn curves_have_their_names_and_a_file_after_their_title() {
        let spread = |value| Spread::of([value]).unwrap();
        let line = |by: f64| [(1.0, spread(100.0 * by)), (1000.0, spread(120.0 * by))].to_vec();
        let curves = Curves {
            title: "Cost by flows".to_owned(),
            x: "flows".to_owned(),
            unit: Unit::Nanoseconds,
            lines: vec![("nat".to_owned(), line(1.0)), ("Katran".to_owned(), line(2.0))],
        };
        let all = all("packet", &[], &[curves]).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, "packet-cost-by-flows.svg");
        assert!(all[0].1.contains("Katran") && all[0].1.contains("1,000"), "{}", all[0].1);
    }
}
