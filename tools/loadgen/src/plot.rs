//! Plots as SVG: lines over axes, and heat maps. Nothing here knows what is plotted.

use std::fmt::Write;

/// Size of every plot, in SVG units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
/// Room around the plotted area for axes and legend.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 36.0;
/// Line colours, distinguishable on light and dark ground and for most kinds of colour blindness.
const COLOURS: [&str; 6] = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Logarithmic,
}

/// One axis. On a logarithmic one, what is not positive lies at the lower end.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: &'static str,
    pub scale: Scale,
    /// Marks with their texts; without any, round numbers are chosen.
    pub marks: Vec<(f64, String)>,
}

impl Axis {
    pub fn new(label: &'static str, scale: Scale) -> Self {
        Self { label, scale, marks: Vec::new() }
    }
}

pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// Counts over a grid of the same axes as lines.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// Left, right, low, high, count.
    pub cells: Vec<(f64, f64, f64, f64, u64)>,
}

pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    pub cells: Cells,
}

impl Plot {
    /// An `<svg>` element of its own.
    pub fn svg(&self) -> String {
        let mut out = String::new();
        let xs = self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
        let ys = self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
        let cells = &self.cells.cells;
        let xs = xs.chain(cells.iter().flat_map(|cell| [cell.0, cell.1]));
        let ys = ys.chain(cells.iter().flat_map(|cell| [cell.2, cell.3]));
        let x = Mapping::new(&self.x, xs, LEFT, WIDTH - RIGHT);
        let y = Mapping::new(&self.y, ys, HEIGHT - BOTTOM, TOP);
        push(
            &mut out,
            format_args!(
                "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\n\
             <text x=\"{LEFT}\" y=\"16\" class=\"title\">{0}</text>\n",
                escaped(&self.title),
            ),
        );
        self.draw_axes(&mut out, &x, &y);
        self.draw_cells(&mut out, &x, &y);
        self.draw_lines(&mut out, &x, &y);
        out.push_str("</svg>\n");
        out
    }

    fn draw_axes(&self, out: &mut String, x: &Mapping, y: &Mapping) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in y.marks(&self.y) {
            let at = y.place(value);
            push(
                out,
                format_args!(
                    "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" class=\"grid\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{text}</text>\n",
                    LEFT - 6.0,
                    at + 4.0,
                ),
            );
        }
        for (value, text) in x.marks(&self.x) {
            let at = x.place(value);
            push(
                out,
                format_args!(
                    "<text x=\"{at:.1}\" y=\"{:.1}\" class=\"middle\">{text}</text>\n",
                    bottom + 15.0,
                ),
            );
        }
        push(
            out,
            format_args!(
                "<text x=\"{right}\" y=\"{:.1}\" class=\"end\">{}</text>\n\
             <text x=\"4\" y=\"{:.1}\">{}</text>\n",
                HEIGHT - 6.0,
                self.x.label,
                TOP - 12.0,
                self.y.label,
            ),
        );
    }

    /// The more a cell holds, the darker it is, in the logarithm.
    fn draw_cells(&self, out: &mut String, x: &Mapping, y: &Mapping) {
        let largest = self.cells.cells.iter().map(|cell| cell.4).max().unwrap_or(1).max(2);
        for &(left, right, low, high, count) in self.cells.cells.iter().filter(|cell| cell.4 > 0) {
            let (left, right) = (x.place(left), x.place(right));
            let (bottom, top) = (y.place(low), y.place(high));
            let shade = 0.1 + 0.9 * (count as f64).ln() / (largest as f64).ln();
            push(
                out,
                format_args!(
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                 fill=\"{}\" fill-opacity=\"{shade:.2}\"/>\n",
                    (right - left).max(0.5),
                    (bottom - top).max(0.5),
                    COLOURS[0],
                ),
            );
        }
    }

    fn draw_lines(&self, out: &mut String, x: &Mapping, y: &Mapping) {
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let mut points = String::new();
            for &(at, value) in &line.points {
                push(&mut points, format_args!("{:.1},{:.1} ", x.place(at), y.place(value)));
            }
            push(
                out,
                format_args!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n",
                    points.trim_end(),
                ),
            );
        }
        let names = self.lines.iter().rev().zip(COLOURS[..self.lines.len()].iter().rev());
        for (index, (line, colour)) in names.enumerate() {
            push(
                out,
                format_args!(
                    "<text x=\"{:.1}\" y=\"16\" class=\"end\" style=\"fill:{colour}\">{}</text>\n",
                    WIDTH - RIGHT - 92.0 * index as f64,
                    line.name,
                ),
            );
        }
    }
}

/// From values to places on the page.
struct Mapping {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Mapping {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let is_shown = |value: &f64| axis.scale == Scale::Linear || *value > 0.0;
        let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (mut low, mut high) =
            values.filter(is_shown).fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        match axis.scale {
            // Lines are read against zero; a plot that hides it exaggerates.
            Scale::Linear => low = low.min(0.0),
            Scale::Logarithmic => {
                low = 10f64.powf(low.log10().floor());
                high = 10f64.powf(high.log10().ceil());
            }
        }
        if high <= low {
            high = if axis.scale == Scale::Linear { low + 1.0 } else { low * 10.0 };
        }
        Self { scale: axis.scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
            }
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn marks(&self, axis: &Axis) -> Vec<(f64, String)> {
        if !axis.marks.is_empty() {
            let is_inside = |mark: &&(f64, String)| (self.low..=self.high).contains(&mark.0);
            return axis.marks.iter().filter(is_inside).cloned().collect();
        }
        let values: Vec<f64> = match self.scale {
            Scale::Linear => {
                let step = round_step((self.high - self.low) / 5.0);
                let first = (self.low / step).ceil();
                let count = ((self.high / step).floor() - first) as usize + 1;
                (0..count).map(|index| (first + index as f64) * step).collect()
            }
            Scale::Logarithmic => {
                let (first, last) = (self.low.log10().round(), self.high.log10().round());
                (0..=(last - first) as i32)
                    .map(|index| 10f64.powf(first + f64::from(index)))
                    .collect()
            }
        };
        values.into_iter().map(|value| (value, short(value))).collect()
    }
}

/// The next of 1, 2, 5, 10, 20, … from `step` on.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * decade >= step * 0.999);
    factor.unwrap_or(10.0) * decade
}

/// 1500000 as `1.5M`, 0.001 as it is.
fn short(value: f64) -> String {
    for (size, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= size {
            return format!("{}{unit}", (value / size * 100.0).round() / 100.0);
        }
    }
    format!("{}", (value * 1e6).round() / 1e6)
}

/// Text for HTML and SVG.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a string takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers() {
        let texts = |scale, low, high| -> Vec<String> {
            let axis = Axis::new("", scale);
            let mapping = Mapping::new(&axis, [low, high].into_iter(), 0.0, 1.0);
            mapping.marks(&axis).into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(texts(Scale::Linear, 0.0, 10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(texts(Scale::Linear, 3.0, 1.2e6), ["0", "500k", "1M"]);
        assert_eq!(texts(Scale::Logarithmic, 0.02, 5.0), ["0.01", "0.1", "1", "10"]);
        assert_eq!(texts(Scale::Linear, 0.0, 0.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }

    #[test]
    fn places_stay_on_the_page() {
        let axis = Axis::new("", Scale::Logarithmic);
        let mapping = Mapping::new(&axis, [1.0, 100.0].into_iter(), 0.0, 10.0);
        for (value, place) in [(1.0, 0.0), (10.0, 5.0), (100.0, 10.0), (0.0, 0.0), (1e9, 10.0)] {
            assert!((mapping.place(value) - place).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_plot() {
        let (x, y) = (Axis::new("s", Scale::Linear), Axis::new("ms", Scale::Logarithmic));
        let plot =
            Plot { title: "a < b".to_owned(), x, y, lines: Vec::new(), cells: Cells::default() };
        let svg = plot.svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
