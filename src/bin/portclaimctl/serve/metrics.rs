//! `/metrics`: what is held, and what the plugin's calls have come to, for Prometheus.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::{
    fmt::{self, Write as _},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use portclaim::{
    cni::Verb,
    tally::{BOUNDS, Counter, Totals},
};

use super::{App, health::Health, snapshot::Snapshot, stored::Stored};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How old what calls have left may be, however many ask.
const FRESH: Duration = Duration::from_millis(250);

/// What the plugin's calls have left to be counted.
pub struct Calls {
    run_dir: PathBuf,
    last: Mutex<Option<(Instant, Arc<Totals>)>>,
}

impl Calls {
    pub fn below(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), last: Mutex::new(None) }
    }

    fn totals(&self) -> io::Result<Arc<Totals>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, totals)) = &*last
            && read.elapsed() < FRESH
        {
            return Ok(totals.clone());
        }
        let totals = Arc::new(Totals::read(&self.run_dir)?);
        *last = Some((Instant::now(), totals.clone()));
        Ok(totals)
    }
}

pub async fn show(State(app): State<App>) -> Response {
    let totals = app.calls.totals().unwrap_or_else(|error| {
        let run_dir = app.calls.run_dir.display();
        log::warn!("what calls have left in {run_dir} cannot be read: {error}");
        Arc::default()
    });
    let text = render(&app.now(), &totals);
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// The text, while it is written.
struct Exposition(String);

impl Exposition {
    /// Begins a family of metrics. The unit, where there is one, ends its name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# TYPE {name} {kind}"));
        if name.ends_with("_seconds") {
            self.line(format_args!("# UNIT {name} seconds"));
        }
        self.line(format_args!("# HELP {name} {help}"));
    }

    fn line(&mut self, arguments: fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .and_then(|()| self.0.write_char('\n'))
            .expect("memory takes it");
    }

    /// The samples of a histogram, from how many there were up to each bound and above
    /// all of them, and their sum in microseconds. `labels` end with a comma, if any.
    fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        counts: impl Fn(Option<u64>) -> u64,
        sum: u64,
    ) {
        let mut count = 0;
        for bound in BOUNDS {
            count += counts(Some(bound));
            let bound = seconds(bound);
            // With a point, as the canonical form of a number has it.
            self.line(format_args!("{name}_bucket{{{labels}le=\"{bound:?}\"}} {count}"));
        }
        count += counts(None);
        self.line(format_args!("{name}_bucket{{{labels}le=\"+Inf\"}} {count}"));
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.line(format_args!("{name}_count{labels} {count}"));
        self.line(format_args!("{name}_sum{labels} {}", seconds(sum)));
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// No value of a label needs an escape: groups, protocols, verbs and reasons are words.
fn render(snapshot: &Snapshot, totals: &Totals) -> String {
    let stored = &snapshot.stored;
    let mut text = Exposition(String::new());
    groups(&mut text, stored);
    let name = "portclaim_leases";
    text.family(name, "gauge", "Host ports that are held.");
    for (kind, is_module) in [("container", false), ("module", true)] {
        let of_kind = stored.holdings.iter().filter(|it| it.module().is_some() == is_module);
        let count: usize = of_kind.map(|holding| holding.leases().len()).sum();
        text.line(format_args!("{name}{{holder=\"{kind}\"}} {count}"));
    }
    let name = "portclaim_claims";
    text.family(name, "gauge", "Claims, in use or not.");
    for (state, is_used) in [("used", true), ("unused", false)] {
        let count = stored.claims.iter().filter(|it| it.holder.is_some() == is_used).count();
        text.line(format_args!("{name}{{state=\"{state}\"}} {count}"));
    }
    let name = "portclaim_instances";
    text.family(name, "gauge", "Instances that registered themselves.");
    text.line(format_args!("{name} {}", snapshot.instances.len()));
    let name = "portclaim_checked";
    text.family(name, "gauge", "Containers and instances whose health is checked, by what it is.");
    for (kind, of_instances) in [("container", false), ("instance", true)] {
        for health in Health::NAMES {
            let count = snapshot.marks.count(of_instances, health);
            text.line(format_args!("{name}{{kind=\"{kind}\",health=\"{health}\"}} {count}"));
        }
    }
    let name = "portclaim_read_timestamp_seconds";
    text.family(name, "gauge", "When the database was read.");
    text.line(format_args!("{name} {}", stored.at));
    calls(&mut text, totals);
    text.line(format_args!("# EOF"));
    text.0
}

fn groups(text: &mut Exposition, stored: &Stored) {
    let name = "portclaim_group_ports";
    text.family(name, "gauge", "Ports of a group, by what has become of them.");
    for group in &stored.groups {
        for (protocols, usage) in &group.usages {
            for protocol in protocols.iter() {
                for (state, count) in [
                    ("leased", usage.leased),
                    ("reserved", usage.reserved),
                    ("cooling", usage.cooling),
                    ("free", usage.free),
                ] {
                    text.line(format_args!(
                        "{name}{{group=\"{}\",protocol=\"{protocol}\",state=\"{state}\"}} {count}",
                        group.name
                    ));
                }
            }
        }
    }
}

/// What has been counted since boot.
fn calls(text: &mut Exposition, totals: &Totals) {
    let count = |wanted: &Counter| totals.iter().find(|(it, _)| *it == wanted).map_or(0, |it| it.1);
    let name = "portclaim_call_duration_seconds";
    text.family(name, "histogram", "How long calls of the plugin took, those that failed too.");
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Version) {
        let counts = |bound| count(&Counter::Calls(verb, bound));
        let labels = format!("verb=\"{verb}\",");
        text.histogram(name, &labels, counts, count(&Counter::Time(verb)));
    }
    let name = "portclaim_lock_wait_seconds";
    text.family(name, "histogram", "How long calls of the plugin waited for the lock.");
    text.histogram(name, "", |bound| count(&Counter::Waits(bound)), count(&Counter::WaitTime));
    let name = "portclaim_allocations";
    text.family(name, "counter", "Host ports given to containers; no group has those by number.");
    for (counter, count) in totals.iter() {
        if let Counter::Ports(group, protocol) = counter {
            let group = group.as_ref().map_or("", |group| group.as_str());
            text.line(format_args!(
                "{name}_total{{group=\"{group}\",protocol=\"{protocol}\"}} {count}"
            ));
        }
    }
    let name = "portclaim_refusals";
    text.family(name, "counter", "Calls of the plugin that failed, by the code and the reason.");
    for (counter, count) in totals.iter() {
        if let Counter::Refusals(verb, code, reason) = counter {
            text.line(format_args!(
                "{name}_total{{verb=\"{verb}\",code=\"{code}\",reason=\"{reason}\"}} {count}"
            ));
        }
    }
    let name = "portclaim_drift";
    let help = "What calls of the plugin found otherwise in the kernel than it was left.";
    text.family(name, "counter", help);
    for (kind, counter) in [("table", Counter::Tables), ("element", Counter::Elements)] {
        text.line(format_args!("{name}_total{{kind=\"{kind}\"}} {}", count(&counter)));
    }
}

#[cfg(test)]
mod tests {
    use portclaim::{lease::Protocol, tally::Tally};

    use super::{
        super::health::{Marks, Subject},
        *,
    };
    use crate::view::lease::tests::{block, forwarding};

    #[test]
    fn metrics_are_those_of_the_snapshot_and_of_calls() {
        let holdings = vec![
            forwarding("shop/web", &["8080/tcp", "80/udp"]).into(),
            block("mail1", 25, 2).into(),
        ];
        let run_dir = tempfile::tempdir().unwrap();
        let mut tally = Tally::default();
        tally.port("games".parse().ok().as_ref(), Protocol::Udp);
        tally.wait(Duration::from_millis(3));
        tally.refusal(Verb::Add, 101, "exhausted");
        for took in [Duration::from_micros(1500), Duration::from_secs(11)] {
            let mut tally = tally.clone();
            tally.call(Verb::Add, took);
            tally.leave(run_dir.path(), true);
        }
        let totals = Totals::read(run_dir.path()).unwrap();
        let stored = Arc::new(Stored { holdings, at: 7, ..Stored::default() });
        let subject = Subject::Instance("web".parse().unwrap());
        let marks = Arc::new(Marks::unhealthy(subject, "HTTP 500"));
        let snapshot = Snapshot { stored, marks, ..Snapshot::default() };
        let text = render(&snapshot, &totals);
        for line in [
            "portclaim_leases{holder=\"container\"} 2\n",
            "portclaim_leases{holder=\"module\"} 2\n",
            "portclaim_claims{state=\"used\"} 0\n",
            "portclaim_instances 0\n",
            "portclaim_checked{kind=\"instance\",health=\"unhealthy\"} 1\n",
            "portclaim_checked{kind=\"container\",health=\"healthy\"} 0\n",
            "portclaim_read_timestamp_seconds 7\n",
            "portclaim_call_duration_seconds_bucket{verb=\"ADD\",le=\"0.001\"} 0\n",
            "portclaim_call_duration_seconds_bucket{verb=\"ADD\",le=\"0.0025\"} 1\n",
            "portclaim_call_duration_seconds_bucket{verb=\"ADD\",le=\"10.0\"} 1\n",
            "portclaim_call_duration_seconds_bucket{verb=\"ADD\",le=\"+Inf\"} 2\n",
            "portclaim_call_duration_seconds_count{verb=\"ADD\"} 2\n",
            "portclaim_call_duration_seconds_sum{verb=\"ADD\"} 11.0015\n",
            "portclaim_lock_wait_seconds_bucket{le=\"0.005\"} 2\n",
            "portclaim_lock_wait_seconds_count 2\n",
            "portclaim_lock_wait_seconds_sum 0.006\n",
            "portclaim_allocations_total{group=\"games\",protocol=\"udp\"} 2\n",
            "portclaim_refusals_total{verb=\"ADD\",code=\"101\",reason=\"exhausted\"} 2\n",
            "portclaim_drift_total{kind=\"table\"} 0\n",
            "# UNIT portclaim_lock_wait_seconds seconds\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
