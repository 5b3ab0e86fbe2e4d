//! Plots: lines over axes, and heat maps. Nothing here knows what is plotted.
//!
//! A plot is a `<figure>` that contains its data as JSON. `plot/plot.js` draws it with uPlot, which
//! is embedded in the page (`plot/uplot`, MIT licence), because pages load nothing. Without
//! JavaScript, a figure has its title and note; verdict and tables do not need any.
//!
//! Here, colours are numbers. The style sheet of the page defines them for light and dark mode.

use maud::{PreEscaped, html};
use serde::{Serialize, Serializer};

/// Number of line colours in the style sheet; further lines reuse them, dashed.
pub const COLOURS: usize = 8;

/// Style sheet of uPlot, to be embedded in pages with plots.
pub const UPLOT_STYLE: &str = include_str!("plot/uplot/uPlot.min.css");
pub const SCRIPTS: [&str; 4] = [
    concat!("/*\n", include_str!("plot/uplot/LICENSE"), "\n*/"),
    include_str!("plot/uplot/uPlot.iife.min.js"),
    include_str!("plot/draw.js"),
    include_str!("plot/plot.js"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    Linear,
    /// Values that are not positive are gaps.
    Logarithmic,
}

/// How the values along an axis are formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    Numbers,
    /// Seconds since the start, as a clock.
    Clock,
    /// 0, 1, 2, 3 … as 0 %, 90 %, 99 %, 99.9 % …
    Nines,
}

#[derive(Clone, Debug, Serialize)]
pub struct Axis {
    /// What is counted, or the unit.
    pub label: String,
    pub scale: Scale,
    pub marks: Marks,
    /// Minimum range of the axis; it grows with the values.
    pub spans: Option<(f64, f64)>,
}

impl Axis {
    pub fn new(label: &str, scale: Scale) -> Self {
        Self { label: label.to_owned(), scale, marks: Marks::Numbers, spans: None }
    }

    /// The time of a run from its start to `end_s`: the same axis for all plots of a run.
    pub fn time(end_s: f64) -> Self {
        let label = if end_s >= 3600.0 { "h:min:s" } else { "min:s" };
        let spans = Some((0.0, end_s.max(1.0)));
        Self { marks: Marks::Clock, spans, ..Self::new(label, Scale::Linear) }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stroke {
    #[default]
    Solid,
    Dashed,
    /// With the area below it filled.
    Filled,
}

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub name: String,
    /// Index of its colour.
    pub colour: usize,
    pub stroke: Stroke,
    /// `None` leaves a gap: nothing was measured, which is not the same as zero.
    #[serde(serialize_with = "columns")]
    pub points: Vec<(f64, Option<f64>)>,
}

impl Line {
    pub fn new(name: &str, colour: usize, points: Vec<(f64, Option<f64>)>) -> Self {
        let stroke = if colour >= COLOURS { Stroke::Dashed } else { Stroke::Solid };
        Self { name: name.to_owned(), colour: colour % COLOURS, stroke, points }
    }

    pub fn with(self, stroke: Stroke) -> Self {
        Self { stroke, ..self }
    }

    /// Drops zeros that have no other value beside them: they would hide the axis below rare
    /// events.
    pub fn sparse(self) -> Self {
        let is_some = |index: usize| {
            let value = self.points.get(index).and_then(|point| point.1);
            value.is_some_and(|value| value != 0.0)
        };
        let point = |(index, &(at, value)): (usize, &(f64, Option<f64>))| {
            let before = index.checked_sub(1).is_some_and(is_some);
            (at, value.filter(|_| before || is_some(index) || is_some(index + 1)))
        };
        let points = self.points.iter().enumerate().map(point).collect();
        Self { points, ..self }
    }
}

/// One rectangle of a heat map, in axis values.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub left: f64,
    pub right: f64,
    pub low: f64,
    pub high: f64,
    pub count: u64,
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let edges = [self.left, self.right, self.low, self.high].map(rounded);
        (edges, self.count).serialize(serializer)
    }
}

/// A phase in the background. Times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Band {
    pub from: f64,
    pub to: f64,
    pub name: String,
}

/// An injected fault.
#[derive(Clone, Debug, Serialize)]
pub struct Mark {
    pub at: f64,
    /// When it ended; equal to `at` if it had no duration.
    pub until: f64,
    /// Its number, if it has one, and a short description.
    pub text: String,
}

/// The background of a plot over time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Backdrop {
    pub phases: Vec<Band>,
    pub faults: Vec<Mark>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    #[serde(skip)]
    pub title: String,
    /// A caption and text alternative: what the plot shows, in one sentence.
    #[serde(skip)]
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    pub cells: Vec<Cell>,
    #[serde(flatten)]
    pub backdrop: Backdrop,
}

impl Plot {
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        let (title, note) = (title.to_owned(), String::new());
        let (lines, cells) = (Vec::new(), Vec::new());
        Self { title, note, x, y, lines, cells, backdrop: Backdrop::default() }
    }

    /// Whether there is nothing to see: all values are zero or missing.
    pub fn is_blank(&self) -> bool {
        let mut values = self.lines.iter().flat_map(|line| &line.points);
        !values.any(|point| point.1.is_some_and(|value| value > 0.0)) && self.cells.is_empty()
    }

    /// The plot as a `<figure>`.
    pub fn figure(&self) -> String {
        let data = serde_json::to_string(self).expect("names and numbers are JSON");
        // The data must not close the element that contains it.
        let data = data.replace('<', "\\u003c");
        let label = format!("{}, {}. {}", self.title, self.y.label, self.note);
        let figure = html! {
            figure {
                figcaption { (self.title) }
                div.plot role="img" aria-label=(label.trim_end()) {
                    script type="application/json" { (PreEscaped(data)) }
                    noscript { p.note { "This plot needs JavaScript; the tables do not." } }
                }
                @if !self.note.is_empty() { p.note { (self.note) } }
            }
        };
        figure.into_string() + "\n"
    }
}

fn columns<S: Serializer>(points: &[(f64, Option<f64>)], serializer: S) -> Result<S::Ok, S::Error> {
    let (xs, ys): (Vec<f64>, Vec<Option<f64>>) =
        points.iter().map(|(x, y)| (rounded(*x), y.map(rounded))).unzip();
    (xs, ys).serialize(serializer)
}

/// Six significant digits, more than a screen shows.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plot() -> Plot {
        Plot::new("a < b", Axis::time(10.0), Axis::new("ms", Scale::Logarithmic))
    }

    fn data(figure: &str) -> Value {
        let (_, data) = figure.split_once("json\">").unwrap();
        serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_plot() {
        let figure = plot().figure();
        assert!(plot().is_blank());
        assert!(figure.starts_with("<figure>") && figure.ends_with("</figure>\n"));
        assert!(figure.contains("aria-label=\"a &lt; b, ms.\""), "{figure}");
        assert_eq!(data(&figure)["x"]["spans"], json!([0.0, 10.0]));
    }

    /// A line across a gap would claim what was not measured.
    #[test]
    fn a_gap_is_null_and_no_text_ends_the_data() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1.0 / 3.0))];
        let mut plot = plot();
        plot.lines.push(Line::new("</script>", 0, points));
        let data = data(&plot.figure());
        assert_eq!(data["lines"][0]["points"], json!([[0.0, 1.0, 2.0], [1.0, null, 0.333333]]));
        assert_eq!(data["lines"][0]["name"], "</script>");
        assert!(!plot.is_blank());
    }

    #[test]
    fn rare_events_do_not_cover_the_axis() {
        let values = [0.0, 0.0, 0.0, 5.0, 0.0, 0.0];
        let points = (0..).zip(values).map(|(at, value)| (f64::from(at), Some(value)));
        let line = Line::new("refused", 3, points.collect()).sparse();
        let kept: Vec<_> = line.points.iter().map(|point| point.1).collect();
        assert_eq!(kept, [None, None, Some(0.0), Some(5.0), Some(0.0), None]);
    }

    #[test]
    fn lines_beyond_the_colours_are_dashed() {
        let line = Line::new("ninth", COLOURS, Vec::new());
        assert_eq!((line.colour, line.stroke), (0, Stroke::Dashed));
    }
}
