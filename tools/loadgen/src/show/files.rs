//! Writes the result files of a run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::findings::document::Document;
use crate::findings::report::Report;
use crate::show::hdr::{write_distribution, write_interval_log};
use crate::show::page;

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct FileError {
    pub path: PathBuf,
    pub cause: io::Error,
}

/// Writes `report.json`, `report.html`, `latency.hlog` and `latency.hgrm` into `directory`, which
/// is created if missing.
pub fn write_files(report: &Report, directory: &Path) -> Result<(), FileError> {
    let failed = |cause| FileError { path: directory.to_owned(), cause };
    fs::create_dir_all(directory).map_err(failed)?;
    write(&directory.join("report.json"), |out| {
        serde_json::to_writer_pretty(&mut *out, &Document::of(report))?;
        out.write_all(b"\n")
    })?;
    write(&directory.join("latency.hlog"), |out| {
        let begin = UNIX_EPOCH + Duration::from_nanos(report.started_unix_ns);
        let names: Vec<String> = match report.streams().count() {
            1 => Vec::new(),
            _ => report.tracks.iter().map(|track| track.name.clone()).collect(),
        };
        write_interval_log(out, begin, &report.subject.load, &names, &report.seconds)
    })?;
    write(&directory.join("latency.hgrm"), |out| write_distribution(out, &report.waits()))?;
    write(&directory.join("report.html"), |out| out.write_all(page::render(report).as_bytes()))
}

/// Writes one file; the error names it.
fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()
    });
    written.map_err(|cause| FileError { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::tests::example;

    #[test]
    fn a_directory_receives_all_files() {
        let directory = std::env::temp_dir().join(format!("loadgen-report-{}", std::process::id()));
        write_files(&example(), &directory.join("made/for/it")).unwrap();
        for name in ["report.json", "report.html", "latency.hlog", "latency.hgrm"] {
            assert!(fs::metadata(directory.join("made/for/it").join(name)).unwrap().len() > 100);
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
