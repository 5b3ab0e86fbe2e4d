//! What lies behind the lines of a plot over time: the phases of the run, and what went wrong on
//! purpose.
//!
//! Phases are bands with their names in a strip above; a name that does not fit is left out. Faults
//! are numbered lines, or bands where they lasted; the text follows the number where there is room,
//! in up to [`ROWS`] rows. Labels never overlap each other, and no line crosses one.

use crate::show::plot::axis::Mapping;
use crate::show::plot::text::{escaped, shortened, width_of};
use crate::show::plot::{Frame, push};

/// Rows for the labels of faults.
const ROWS: usize = 3;
/// Characters of a fault's label.
const LABEL_MAX: usize = 24;
/// Between a fault's line and its label, and between labels.
const GAP: f64 = 4.0;

/// Times in seconds.
#[derive(Clone, Debug, Default)]
pub struct Backdrop {
    pub phases: Vec<Band>,
    pub faults: Vec<Mark>,
}

#[derive(Clone, Debug)]
pub struct Band {
    pub from: f64,
    pub to: f64,
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct Mark {
    pub at: f64,
    /// When it was over; the same as `at` where it had no length.
    pub until: f64,
    /// By which the page's table knows it, if it does.
    pub number: Option<usize>,
    pub text: String,
}

/// The backdrop, placed in a frame.
pub struct Strips {
    /// Left, right, and the name where it fits.
    phases: Vec<(f64, f64, Option<String>)>,
    marks: Vec<(f64, f64, Option<Label>)>,
    /// Where the plotted area begins.
    top: f64,
}

struct Label {
    row: usize,
    text: String,
    from: f64,
}

impl Backdrop {
    /// Places everything; the second value is where the plotted area may begin.
    pub fn strips(&self, frame: &Frame, x: &Mapping) -> (Strips, f64) {
        let band = |band: &Band| {
            let (left, right) = (x.place(band.from), x.place(band.to));
            let fits = width_of(&band.name, frame.font_size) + GAP <= right - left;
            (left, right, fits.then(|| band.name.clone()))
        };
        let phases: Vec<_> = self.phases.iter().map(band).collect();
        let mut rows = Rows::new(frame);
        let mark = |mark: &Mark| {
            let (at, until) = (x.place(mark.at), x.place(mark.until));
            (at, until, rows.place(at, mark))
        };
        // From the right, so that a label lies above those to its right: no line crosses a label.
        let mut faults: Vec<&Mark> = self.faults.iter().collect();
        faults.sort_by(|one, other| other.at.total_cmp(&one.at));
        let marks: Vec<_> = faults.into_iter().map(mark).collect();
        let line = line_height(frame);
        // The unit of the vertical axis stands in the strip of the phases.
        let top = line * (rows.used() as f64 + 1.0) + 4.0;
        (Strips { phases, marks, top }, top)
    }
}

/// Labels placed so far, by row: where each begins and ends.
struct Rows<'a> {
    frame: &'a Frame,
    ends: [Vec<(f64, f64)>; ROWS],
    /// Where each label's line is, which goes down from the label's row.
    lines: Vec<(f64, usize)>,
}

impl<'a> Rows<'a> {
    fn new(frame: &'a Frame) -> Self {
        Self { frame, ends: Default::default(), lines: Vec::new() }
    }

    fn used(&self) -> usize {
        self.ends.iter().rposition(|row| !row.is_empty()).map_or(0, |row| row + 1)
    }

    /// The longest label that fits, in the lowest row that has room.
    fn place(&mut self, at: f64, mark: &Mark) -> Option<Label> {
        let text = shortened(&mark.text, LABEL_MAX);
        let (long, short) = match mark.number {
            Some(number) => (format!("{number} {text}"), number.to_string()),
            None => (text, "•".to_owned()),
        };
        for text in [long, short] {
            let width = width_of(&text, self.frame.font_size);
            let after = (at + GAP, at + GAP + width);
            let before = (at - GAP - width, at - GAP);
            for (from, to) in [after, before] {
                let is_inside = from >= self.frame.left && to <= self.frame.width - 1.0;
                let row = (0..ROWS).find(|&row| self.is_free(row, at, from, to));
                if let Some(row) = row.filter(|_| is_inside) {
                    self.ends[row].push((from, to));
                    self.lines.push((at, row));
                    return Some(Label { row, text, from });
                }
            }
        }
        None
    }
}

impl Rows<'_> {
    /// Whether a label from `from` to `to` meets no other there, no line crosses it, and its own
    /// line, at `at`, crosses no label in a lower row.
    fn is_free(&self, row: usize, at: f64, from: f64, to: f64) -> bool {
        let is_beside = |it: &(f64, f64)| to + GAP < it.0 || it.1 + GAP < from;
        let is_missed = |it: &(f64, f64)| at < it.0 || it.1 < at;
        let crosses = |line: &(f64, usize)| (from..to).contains(&line.0) && line.1 >= row;
        self.ends[row].iter().all(is_beside)
            && !self.lines.iter().any(crosses)
            && self.ends[..row].iter().flatten().all(is_missed)
    }
}

impl Strips {
    /// What lies below the lines.
    pub fn push_behind(&self, out: &mut String, frame: &Frame, bottom: f64) {
        let strip = self.top - line_height(frame);
        for (index, (left, right, _)) in self.phases.iter().enumerate() {
            let (width, height) = (right - left, bottom - strip);
            if index % 2 == 1 {
                push(
                    out,
                    format_args!(
                        "<rect class=\"phase\" x=\"{left:.1}\" y=\"{strip:.1}\" \
                         width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
                    ),
                );
            }
        }
        for (at, until, _) in self.marks.iter().filter(|mark| mark.1 - mark.0 > 1.0) {
            push(
                out,
                format_args!(
                    "<rect class=\"fault\" x=\"{at:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
                     height=\"{:.1}\"/>\n",
                    self.top,
                    until - at,
                    bottom - self.top,
                ),
            );
        }
    }

    /// What lies above them: the moments of faults, with labels.
    pub fn push_marks(&self, out: &mut String, frame: &Frame, bottom: f64) {
        let line = line_height(frame);
        for (at, _, label) in &self.marks {
            // Row 0 is the lowest, next to the strip of the phases.
            let row = |row: usize| self.top - line * (row as f64 + 2.0);
            let from = label.as_ref().map_or(self.top, |label| row(label.row));
            push(out, format_args!("<path class=\"mark\" d=\"M{at:.1} {from:.1}V{bottom:.1}\"/>"));
            if let Some(label) = label {
                push(
                    out,
                    format_args!(
                        "<text x=\"{:.1}\" y=\"{:.1}\" class=\"fault\">{}</text>\n",
                        label.from,
                        from + frame.font_size * 0.95,
                        escaped(&label.text),
                    ),
                );
            }
        }
        // Last, because lines of faults go through the strip.
        let named = self.phases.iter().filter_map(|it| Some((it.0, it.1, it.2.as_deref()?)));
        for (left, right, name) in named {
            push(
                out,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" class=\"middle unit phase\">{}</text>\n",
                    (left + right) / 2.0,
                    self.top - frame.font_size * 0.4,
                    escaped(name),
                ),
            );
        }
    }
}

fn line_height(frame: &Frame) -> f64 {
    frame.font_size * 1.4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::plot::{Axis, NARROW, WIDE};

    fn place(backdrop: &Backdrop, frame: &Frame) -> Strips {
        let axis = Axis::time(100.0);
        let x = Mapping::new(&axis, [].into_iter(), frame.left, frame.width - frame.right);
        backdrop.strips(frame, &x).0
    }

    fn mark(number: usize, at: f64) -> Mark {
        Mark {
            at,
            until: at,
            number: Some(number),
            text: "the broker is killed at its worst moment".to_owned(),
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_left_out() {
        let band = |from, to, name: &str| Band { from, to, name: name.to_owned() };
        let phases = vec![band(0.0, 50.0, "gathering"), band(50.0, 51.0, "hush")];
        let strips = place(&Backdrop { phases, faults: Vec::new() }, &WIDE);
        let names: Vec<_> = strips.phases.iter().map(|phase| phase.2.as_deref()).collect();
        assert_eq!(names, [Some("gathering"), None]);
    }

    /// However many faults there are and wherever they are.
    #[test]
    fn labels_of_faults_never_overlap_and_are_not_crossed() {
        for frame in [WIDE, NARROW] {
            for count in 1..40 {
                let at = |number: usize| (number * 37 % 101) as f64;
                let faults = (1..=count).map(|number| mark(number, at(number))).collect();
                let strips = place(&Backdrop { phases: Vec::new(), faults }, &frame);
                let labels: Vec<&Label> =
                    strips.marks.iter().filter_map(|mark| mark.2.as_ref()).collect();
                assert!(!labels.is_empty());
                for (index, one) in labels.iter().enumerate() {
                    let to = |label: &Label| label.from + width_of(&label.text, frame.font_size);
                    assert!(one.from >= frame.left && to(one) <= frame.width);
                    let lines =
                        strips.marks.iter().filter_map(|it| Some((it.0, it.2.as_ref()?.row)));
                    let crossed = lines.filter(|line| line.1 >= one.row);
                    let is_inside = |line: &(f64, usize)| one.from < line.0 && line.0 < to(one);
                    assert!(!crossed.into_iter().any(|line| is_inside(&line)), "{count}");
                    for other in labels[..index].iter().filter(|other| other.row == one.row) {
                        assert!(to(one) < other.from || to(other) < one.from, "{count}");
                    }
                }
            }
        }
    }

    #[test]
    fn labels_stand_above_those_that_follow_them() {
        let faults = vec![mark(1, 20.0), mark(2, 30.0), mark(3, 40.0)];
        let mut strips = place(&Backdrop { phases: Vec::new(), faults }, &WIDE);
        strips.marks.sort_by(|one, other| one.0.total_cmp(&other.0));
        let rows: Vec<_> = strips.marks.iter().map(|it| it.2.as_ref().unwrap().row).collect();
        assert_eq!(rows, [2, 1, 0]);
    }

    #[test]
    fn a_fault_at_the_right_edge_has_its_label_on_the_left() {
        let faults = vec![mark(1, 99.0)];
        let strips = place(&Backdrop { phases: Vec::new(), faults }, &WIDE);
        let (at, _, label) = &strips.marks[0];
        let label = label.as_ref().unwrap();
        assert!(label.from < *at && label.text.starts_with("1 the broker"));
    }
}
