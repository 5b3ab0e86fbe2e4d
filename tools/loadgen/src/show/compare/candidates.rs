//! Groups runs into candidates: which runs are repeats of each other.

use crate::findings::report::Report;

/// Key in a report's environment that names its candidate.
pub const CANDIDATE: &str = "candidate";

/// What is compared: one target and workload, with the repeats.
pub struct Candidate {
    /// `A`, `B`, …
    pub label: String,
    /// A short description.
    pub name: String,
    /// At least one.
    pub runs: Vec<Report>,
}

impl Candidate {
    /// Its runs with valid latencies.
    pub fn valid(&self) -> impl Iterator<Item = &Report> {
        self.runs.iter().filter(|run| run.figures().valid)
    }
}

/// Groups reports into candidates, in the order of their first runs. Runs are repeats if they have
/// the same name and workload, whatever their seeds, and the same kind of target: the same text
/// without addresses, and the same broker command without ports and directories.
pub fn candidates(reports: Vec<Report>) -> Vec<Candidate> {
    let mut found: Vec<(String, Candidate)> = Vec::new();
    for report in reports {
        let subject = &report.subject;
        let name = kind_of(&report);
        let key = format!("{}|{}|{name}", subject.name, subject.workload);
        match found.iter_mut().find(|(known, _)| *known == key) {
            Some((_, candidate)) => candidate.runs.push(report),
            None => {
                let label = label(found.len());
                found.push((key, Candidate { label, name, runs: vec![report] }));
            }
        }
    }
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A, B, …, Z, then numbers.
fn label(index: usize) -> String {
    match u8::try_from(index).ok().filter(|index| *index < 26) {
        Some(index) => char::from(b'A' + index).to_string(),
        None => format!("#{}", index + 1),
    }
}

/// The target of a run, without what differs between two starts of it.
fn kind_of(report: &Report) -> String {
    let given = report.subject.environment.get(CANDIDATE).and_then(|value| value.as_str());
    if let Some(name) = given {
        return name.to_owned();
    }
    let target = &report.subject.target;
    let is_embedded = target.starts_with("embedded");
    let words: Vec<&str> =
        target.split(' ').filter(|word| !is_address(word) && *word != "embedded").collect();
    let what = words.join(" ");
    let broker = report.subject.environment.get("broker").and_then(|value| value.as_str());
    let flush = broker.and_then(|command| word_after(command, "--flush"));
    match (is_embedded, flush) {
        (true, Some(flush)) => format!("RingMQ, embedded, flush {flush}: {what}"),
        (true, None) => format!("RingMQ, embedded: {what}"),
        (false, _) => format!("at {}: {what}", addresses(target)),
    }
}

fn word_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()
}

fn is_address(word: &str) -> bool {
    word.trim_end_matches(':').split(';').all(|part| {
        let port = part.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()))
    })
}

/// A target that somebody else started is identified by its address.
fn addresses(target: &str) -> &str {
    let word = target.split(' ').find(|word| is_address(word));
    word.map_or(target, |word| word.trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::tests::example;

    fn run(target: &str, command: &str) -> Report {
        let mut report = example();
        target.clone_into(&mut report.subject.target);
        report.subject.environment.insert("broker".to_owned(), command.into());
        report
    }

    #[test]
    fn runs_that_differ_only_in_ports_are_repeats() {
        let found = candidates(vec![
            run(
                "embedded 127.0.0.1:41: 2 brokers, 6 topics",
                "dev --listen 127.0.0.1:9 --flush sync",
            ),
            run("127.0.0.1:9876: 1 broker, 6 topics", ""),
            run(
                "embedded 127.0.0.1:42: 2 brokers, 6 topics",
                "dev --listen 127.0.0.1:7 --flush sync",
            ),
            run("embedded 127.0.0.1:43: 2 brokers, 6 topics", "dev --flush async"),
        ]);
        let found: Vec<(&str, &str, usize)> =
            found.iter().map(|it| (it.label.as_str(), it.name.as_str(), it.runs.len())).collect();
        let wanted = [
            ("A", "RingMQ, embedded, flush sync: 2 brokers, 6 topics", 2),
            ("B", "at 127.0.0.1:9876: 1 broker, 6 topics", 1),
            ("C", "RingMQ, embedded, flush async: 2 brokers, 6 topics", 1),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_was_given_a_name_is_known_by_it() {
        let named = |target: &str| {
            let mut report = run(target, "");
            report.subject.environment.insert(CANDIDATE.to_owned(), "theirs".into());
            report
        };
        let found =
            candidates(vec![named("10.0.0.1:9876: 1 broker"), named("10.0.0.2:9: 1 broker")]);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].runs.len()), (1, "theirs", 2));
    }

    #[test]
    fn another_workload_is_another_candidate_and_another_seed_is_not() {
        let one = || run("127.0.0.1:9876: 1 broker", "");
        let mut seeded = one();
        (seeded.subject.seed, seeded.subject.schedule) = (9, "feed".to_owned());
        assert_eq!(candidates(vec![one(), seeded]).len(), 1);
        let mut other = one();
        other.subject.workload = "feed".to_owned();
        assert_eq!(candidates(vec![one(), other]).len(), 2);
    }

    #[test]
    fn labels_do_not_run_out() {
        assert_eq!([label(0), label(25), label(26)], ["A", "Z", "#27"]);
    }
}
