//! Horizontal bars: a table whose middle column is drawn, so that it wraps, scales and reads aloud
//! like any other.

use crate::show::plot::push;
use crate::show::plot::text::escaped;

pub struct Bar {
    pub name: String,
    pub value: f64,
    /// The value as it is written beside the bar.
    pub text: String,
    /// Index of its colour.
    pub colour: usize,
}

/// All bars on one scale that begins at zero.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = String::new();
    push(
        &mut out,
        format_args!("<table class=\"bars\"><caption>{}</caption><tbody>\n", escaped(title)),
    );
    for bar in bars {
        push(
            &mut out,
            format_args!(
                "<tr><th scope=\"row\">{}</th><td class=\"bar\"><span class=\"b{}\" \
                 style=\"width:{:.1}%\"></span></td><td class=\"num\">{}</td></tr>\n",
                escaped(&bar.name),
                bar.colour,
                (bar.value / largest * 100.0).clamp(0.0, 100.0),
                escaped(&bar.text),
            ),
        );
    }
    out.push_str("</tbody></table>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_a_scale_from_zero() {
        let bar =
            |value: f64| Bar { name: "a&b".to_owned(), value, text: format!("{value}"), colour: 0 };
        let table = bars("rates", &[bar(50.0), bar(100.0), bar(0.0)]);
        for width in ["width:50.0%", "width:100.0%", "width:0.0%"] {
            assert!(table.contains(width), "{table}");
        }
        assert!(table.contains("a&amp;b") && !bars("none", &[bar(0.0)]).contains("NaN"));
    }
}
