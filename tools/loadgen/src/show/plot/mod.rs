//! Plots as HTML with SVG inside: lines over axes, heat maps, bars. Nothing here knows what is
//! plotted.
//!
//! ```text
//!   figure ─┬─ caption and legend    HTML, so that the browser wraps them
//!           ├─ svg.wide              shown from 640 pixels on
//!           └─ svg.narrow            shown below: the same plot, drawn for a telephone
//! ```
//!
//! Start reading at [`Plot::figure`]. An SVG scales its text with its width, so what is readable on
//! a desk is not on a telephone; every plot is therefore drawn twice and the style sheet shows one.
//! [`axis`] says where a value lies, [`backdrop`] what lies behind the lines (phases and faults),
//! [`bars`] are plain HTML. Colours are classes, which the style sheet of the page defines for light
//! and dark ground.

pub mod axis;
pub mod backdrop;
pub mod bars;
pub mod text;

use std::fmt::{Arguments, Write};

use axis::Mapping;
pub use axis::{Axis, Scale};
pub use backdrop::Backdrop;
use text::{escaped, short};

/// Colours that the style sheet has for lines; further lines begin again, dashed.
pub const COLOURS: usize = 8;
/// Shades of a heat map.
const SHADES: usize = 10;

/// A way of drawing a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    #[default]
    Solid,
    Dashed,
    /// With the area down to the axis.
    Filled,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Index of its colour.
    pub colour: usize,
    pub look: Look,
    /// Without a value there is a gap: nothing was measured, which is not the same as zero.
    pub points: Vec<(f64, Option<f64>)>,
}

impl Line {
    pub fn new(name: &str, colour: usize, points: Vec<(f64, Option<f64>)>) -> Self {
        let look = if colour >= COLOURS { Look::Dashed } else { Look::Solid };
        Self { name: name.to_owned(), colour: colour % COLOURS, look, points }
    }

    pub fn looking(self, look: Look) -> Self {
        Self { look, ..self }
    }

    /// Without the zeros that have no other value beside them: what seldom happens would otherwise
    /// hide the axis.
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

/// One rectangle of a heat map, in the values of the axes.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub left: f64,
    pub right: f64,
    pub low: f64,
    pub high: f64,
    pub count: u64,
}

#[derive(Clone, Debug)]
pub struct Plot {
    pub title: String,
    /// What the plot shows in a sentence, for those who cannot see it and for those who can.
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    pub cells: Vec<Cell>,
    pub backdrop: Backdrop,
}

/// The picture's size, all in SVG units.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub class: &'static str,
    pub width: f64,
    /// Of the plotted area.
    pub area: f64,
    pub font_size: f64,
    /// Room for the texts of the vertical axis.
    pub left: f64,
    pub right: f64,
    marks_x: usize,
    marks_y: usize,
}

const WIDE: Frame = Frame {
    class: "wide",
    width: 860.0,
    area: 190.0,
    font_size: 13.0,
    left: 62.0,
    right: 14.0,
    marks_x: 10,
    marks_y: 5,
};

const NARROW: Frame = Frame {
    class: "narrow",
    width: 400.0,
    area: 180.0,
    font_size: 12.0,
    left: 52.0,
    right: 12.0,
    marks_x: 4,
    marks_y: 5,
};

impl Plot {
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        let (title, note) = (title.to_owned(), String::new());
        let (lines, cells) = (Vec::new(), Vec::new());
        Self { title, note, x, y, lines, cells, backdrop: Backdrop::default() }
    }

    /// Whether there is anything to see: a value that is not zero.
    pub fn is_blank(&self) -> bool {
        let mut values = self.lines.iter().flat_map(|line| &line.points);
        !values.any(|point| point.1.is_some_and(|value| value > 0.0)) && self.cells.is_empty()
    }

    /// A `<figure>` of its own.
    pub fn figure(&self) -> String {
        let mut out = String::new();
        push(
            &mut out,
            format_args!("<figure>\n<figcaption>{}</figcaption>\n", escaped(&self.title)),
        );
        self.push_legend(&mut out);
        self.push_svg(&mut out, &WIDE);
        self.push_svg(&mut out, &NARROW);
        if !self.note.is_empty() {
            push(&mut out, format_args!("<p class=\"note\">{}</p>\n", escaped(&self.note)));
        }
        out.push_str("</figure>\n");
        out
    }

    fn push_legend(&self, out: &mut String) {
        if self.lines.is_empty() && self.cells.is_empty() {
            return;
        }
        out.push_str("<ul class=\"legend\">");
        for line in &self.lines {
            let (colour, name) = (line.colour, escaped(&line.name));
            let dashed = if line.look == Look::Dashed { " dashed" } else { "" };
            push(out, format_args!("<li><i class=\"k{colour}{dashed}\"></i>{name}</li>"));
        }
        if let Some(largest) = self.cells.iter().map(|cell| cell.count).max() {
            push(
                out,
                format_args!(
                    "<li>1 message <i class=\"ramp\"></i> {} in one cell</li>",
                    short(largest as f64)
                ),
            );
        }
        out.push_str("</ul>\n");
    }

    fn push_svg(&self, out: &mut String, frame: &Frame) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let xs = points().map(|point| point.0);
        let ys = points().filter_map(|point| point.1);
        let xs = xs.chain(self.cells.iter().flat_map(|cell| [cell.left, cell.right]));
        let ys = ys.chain(self.cells.iter().flat_map(|cell| [cell.low, cell.high]));
        let x = Mapping::new(&self.x, xs, frame.left, frame.width - frame.right);
        let (strips, top) = self.backdrop.strips(frame, &x);
        let bottom = top + frame.area;
        let y = Mapping::new(&self.y, ys, bottom, top);
        let height = bottom + frame.font_size * 3.1;
        push(
            out,
            format_args!(
                "<svg class=\"{}\" viewBox=\"0 0 {} {height:.0}\" font-size=\"{}\" role=\"img\" \
                 aria-label=\"{}\">\n",
                frame.class,
                frame.width,
                frame.font_size,
                escaped(&self.aria_label()),
            ),
        );
        strips.push_behind(out, frame, bottom);
        self.push_axes(out, frame, &x, &y, (top, bottom));
        self.push_cells(out, &x, &y);
        // Areas lie below all lines, and the line that is named first lies on top.
        let (areas, lines): (Vec<&Line>, Vec<&Line>) =
            self.lines.iter().partition(|line| line.look == Look::Filled);
        let order = areas.into_iter().chain(lines.into_iter().rev());
        order.for_each(|line| push_line(out, line, &x, &y, bottom));
        strips.push_marks(out, frame, bottom);
        out.push_str("</svg>\n");
    }

    fn aria_label(&self) -> String {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let mut label = format!("{}, {}", self.title, self.y.label);
        for (before, text) in [(": ", names.join(", ")), (". ", self.note.clone())] {
            if !text.is_empty() {
                label.push_str(before);
                label.push_str(&text);
            }
        }
        label
    }

    fn push_axes(
        &self,
        out: &mut String,
        frame: &Frame,
        x: &Mapping,
        y: &Mapping,
        (top, bottom): (f64, f64),
    ) {
        let (left, right, font) = (frame.left, frame.width - frame.right, frame.font_size);
        for (value, text) in y.marks(&self.y, frame.marks_y) {
            let at = y.place(value);
            push(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{text}</text>\n",
                    left - 6.0,
                    at + font * 0.35,
                ),
            );
        }
        for (value, text) in x.marks(&self.x, frame.marks_x) {
            let at = x.place(value);
            // Texts at the edge would be cut off.
            let half = text::width_of(&text, font) / 2.0;
            let middle = at.min(frame.width - half - 1.0);
            push(
                out,
                format_args!(
                    "<path class=\"tick\" d=\"M{at:.1} {bottom:.1}v4\"/>\
                     <text x=\"{middle:.1}\" y=\"{:.1}\" class=\"middle\">{text}</text>\n",
                    bottom + font * 1.6,
                ),
            );
        }
        push(
            out,
            format_args!(
                "<text x=\"{right}\" y=\"{:.1}\" class=\"end unit\">{}</text>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"end unit\">{}</text>\n",
                bottom + font * 2.8,
                escaped(&self.x.label),
                left - 6.0,
                top - font * 0.75,
                escaped(&self.y.label),
            ),
        );
    }

    /// The more a cell holds, the darker it is, in the logarithm. Cells of one shade are one path,
    /// which is a fifth of the size that a rectangle for each would have.
    fn push_cells(&self, out: &mut String, x: &Mapping, y: &Mapping) {
        let largest = self.cells.iter().map(|cell| cell.count).max().unwrap_or(1).max(2);
        let mut shades = vec![String::new(); SHADES];
        for cell in self.cells.iter().filter(|cell| cell.count > 0) {
            let (left, right) = (x.place(cell.left), x.place(cell.right));
            let (bottom, top) = (y.place(cell.low), y.place(cell.high));
            let part = (cell.count as f64).ln() / (largest as f64).ln();
            let shade = ((part * SHADES as f64) as usize).min(SHADES - 1);
            let (width, height) = ((right - left).max(0.5), (bottom - top).max(0.5));
            push(
                &mut shades[shade],
                format_args!("M{left:.1} {top:.1}h{width:.1}v{height:.1}h-{width:.1}z"),
            );
        }
        for (shade, path) in shades.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let opacity = (shade + 1) as f64 / SHADES as f64;
            push(out, format_args!("<path class=\"cell\" opacity=\"{opacity}\" d=\"{path}\"/>\n"));
        }
    }
}

/// The line, broken where there are gaps; a value between two gaps is a dot.
fn push_line(out: &mut String, line: &Line, x: &Mapping, y: &Mapping, bottom: f64) {
    let (mut path, mut area) = (String::new(), String::new());
    for stretch in line.points.split(|point| point.1.is_none()).filter(|it| !it.is_empty()) {
        let mut command = 'M';
        let mut last = 0.0;
        for (at, value) in stretch.iter().filter_map(|point| Some((point.0, point.1?))) {
            let (at, value) = (x.place(at), y.place(value));
            if command == 'M' {
                push(&mut area, format_args!("M{at:.1} {bottom:.1}"));
            }
            push(&mut path, format_args!("{command}{at:.1} {value:.1}"));
            push(&mut area, format_args!("L{at:.1} {value:.1}"));
            (command, last) = ('L', at);
        }
        if stretch.len() == 1 {
            path.push_str("h0");
        }
        push(&mut area, format_args!("L{last:.1} {bottom:.1}Z"));
    }
    let colour = line.colour;
    if line.look == Look::Filled {
        push(out, format_args!("<path class=\"a{colour}\" d=\"{area}\"/>\n"));
    }
    let dashed = if line.look == Look::Dashed { " dashed" } else { "" };
    push(out, format_args!("<path class=\"c{colour}{dashed}\" d=\"{path}\"/>\n"));
}

fn push(out: &mut String, arguments: Arguments<'_>) {
    out.write_fmt(arguments).expect("a string takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        Plot::new("a < b", Axis::time(10.0), Axis::new("ms", Scale::Logarithmic))
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_plot() {
        let figure = plot().figure();
        assert!(plot().is_blank());
        assert!(figure.starts_with("<figure>") && figure.ends_with("</figure>\n"));
        assert_eq!(figure.matches("<svg ").count(), 2, "wide and narrow");
        assert!(figure.contains("aria-label=\"a &lt; b, ms\""));
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    }

    /// A line through a gap would claim what was not measured.
    #[test]
    fn a_line_is_broken_where_nothing_was_measured() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(1.0)), (2.0, None), (3.0, Some(1.0))];
        let mut plot = plot();
        plot.lines.push(Line::new("p99", 0, points));
        let figure = plot.figure();
        let path = figure.split("class=\"c0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(path.ends_with("h0"), "a lone value is a dot: {path}");
        assert!(!plot.is_blank());
    }

    #[test]
    fn what_seldom_happens_does_not_cover_the_axis() {
        let values = [0.0, 0.0, 0.0, 5.0, 0.0, 0.0];
        let points = (0..).zip(values).map(|(at, value)| (f64::from(at), Some(value)));
        let line = Line::new("refused", 3, points.collect()).sparse();
        let kept: Vec<_> = line.points.iter().map(|point| point.1).collect();
        assert_eq!(kept, [None, None, Some(0.0), Some(5.0), Some(0.0), None]);
    }

    #[test]
    fn lines_beyond_the_colours_are_dashed() {
        let line = Line::new("ninth", COLOURS, Vec::new());
        assert_eq!((line.colour, line.look), (0, Look::Dashed));
    }

    #[test]
    fn a_large_heat_map_is_a_few_paths() {
        let mut plot = plot();
        for index in 0..9_000_u64 {
            let (left, low) = ((index % 300) as f64 / 30.0, 10f64.powf((index / 300) as f64 / 8.0));
            let (right, high) = (left + 1.0 / 30.0, low * 1.33);
            plot.cells.push(Cell { left, right, low, high, count: index % 1_000 + 1 });
        }
        let figure = plot.figure();
        assert_eq!(figure.matches("<path class=\"cell\"").count(), 2 * SHADES);
        assert!(figure.len() < 700_000, "{} bytes", figure.len());
    }
}
