//! Files in the formats of HdrHistogram's own tools.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::engine::histogram::Waits;
use crate::engine::measure::Second;

/// The formats display milliseconds; the values are nanoseconds.
const NS_PER_SHOWN: f64 = 1e6;

/// Writes one histogram per second, track and kind as an HdrHistogram interval log, version 1.3:
/// one line each, compressed V2, tagged `TRACK.KIND`. If the run has one stream, tags have no
/// track.
pub fn write_interval_log(
    out: &mut impl Write,
    begin: SystemTime,
    comment: &str,
    tracks: &[String],
    seconds: &[Second],
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(comment).with_start_time(begin).with_base_time(begin);
    builder.with_max_value_divisor(NS_PER_SHOWN);
    let mut log = builder.begin_log_with(out, &mut serializer)?;
    for second in seconds {
        for (track, interval) in second.unpack() {
            for (kind, histogram) in interval.histograms() {
                let text = match tracks.get(track) {
                    Some(name) => format!("{name}.{kind}"),
                    None => kind.to_owned(),
                };
                let tag = Tag::new(&text).expect("names have no spaces or commas");
                let (start, length) = (Duration::from_secs(second.number), Duration::from_secs(1));
                log.write_histogram(histogram, start, length, Some(tag))
                    .map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// Writes the percentile distribution for HdrHistogram's plotters, in milliseconds, with five steps
/// per halving of the distance to 100 %.
///
/// Messages that were given up have no latency and rank behind all others, so the last percentile is
/// below 100 % by their share. Their number is at the end.
pub fn write_distribution(out: &mut impl Write, waits: &Waits) -> io::Result<()> {
    let histogram = waits.measured();
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let shown = |value_ns: u64| value_ns as f64 / NS_PER_SHOWN;
    for (quantile, value_ns, total) in waits.distribution(5) {
        write!(out, "{:12.6} {quantile:2.12} {total:10}", shown(value_ns))?;
        if quantile < 1.0 {
            writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out)?;
        }
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_SHOWN, histogram.stdev() / NS_PER_SHOWN);
    writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
    let max = if histogram.is_empty() { 0 } else { histogram.max() };
    writeln!(out, "#[Max     = {:12.6}, Total count    = {:12}]", shown(max), histogram.len())?;
    let buckets = (64 - histogram.high().leading_zeros()).saturating_sub(10).max(1);
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048)?;
    writeln!(out, "#[Given up = {:11}]", waits.count() - histogram.len())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::engine::histogram::{empty, record};
    use crate::engine::measure::Interval;

    /// The library's own reader reads the log back: values, seconds and tags are preserved.
    #[test]
    fn an_interval_log_can_be_read_back() {
        let mut interval = Interval::default();
        record(&mut interval.latency, 1_500_000, 7);
        record(&mut interval.lateness, 2_000, 3);
        let mut text = Vec::new();
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seconds =
            [Second::pack(0, &[(0, Interval::default())]), Second::pack(4, &[(1, interval)])];
        let tracks = ["orders".to_owned(), "payments".to_owned()];
        write_interval_log(&mut text, begin, "test", &tracks, &seconds).unwrap();

        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            let packed = STANDARD.decode(line.encoded_histogram()).unwrap();
            let read: Histogram<u64> =
                Deserializer::new().deserialize(&mut packed.as_slice()).unwrap();
            let tag = line.tag().unwrap().as_str().to_owned();
            found.push((line.start_timestamp().as_secs(), tag, read.len()));
        }
        let line = |tag: &str, count| (4, tag.to_owned(), count);
        assert_eq!(found, [line("payments.latency", 7), line("payments.slip", 3)]);
    }

    #[test]
    fn a_distribution_as_written() {
        let mut histogram = empty();
        record(&mut histogram, 1_000_000, 3);
        record(&mut histogram, 2_000_000, 1);
        let mut text = Vec::new();
        let mut given_up = empty();
        record(&mut given_up, 3_000_000_000, 4);
        write_distribution(&mut text, &Waits::of(&histogram, &given_up)).unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.nth(1), Some("    1.000447 0.000000000000          3           1.00"));
        assert!(
            text.contains("\n    2.000895 0.500000000000          4           2.00\n"),
            "{text}"
        );
        assert!(text.contains("Total count    =            4]\n"), "{text}");
        assert!(text.ends_with("#[Given up =           4]\n"), "{text}");
    }
}
