//! What a long time does to a node: ADDs where many containers have come and gone,
//! relative to those where none has.

use std::time::Duration;

use crate::{
    Extent,
    plugin::{Call, Mapping, Plugin},
    progress,
    report::{Report, Target},
    site::{Container, Site},
    statistic::Samples,
};

const TARGET: Target = Target(1.2);
/// How many live at a time.
const LIVING: u16 = 10;
/// How many ADDs are compared with as many, if there are twice as many.
const COMPARED: u16 = 100;
/// Containers have the host ports from here on.
const FIRST_PORT: u16 = 8080;
/// So many of them, in turn.
const PORTS: u16 = 2 * LIVING;

/// A node on which containers come and go.
struct Course {
    site: Site,
    next: u16,
}

impl Course {
    fn new() -> Self {
        Self { site: Site::new(Plugin::Portclaim), next: 0 }
    }

    /// One comes, which is measured, and the oldest goes.
    fn advance(&mut self) -> Duration {
        let call = |verb, number| {
            let port = Mapping::tcp(FIRST_PORT + number % PORTS);
            self.site.run(Call::new(verb, &self.site, Container(number), &[port]))
        };
        let time = call("ADD", self.next);
        if let Some(oldest) = self.next.checked_sub(LIVING) {
            call("DEL", oldest);
        }
        self.next += 1;
        time
    }
}

/// Measures the first and the last ADDs of many, each of two nodes in its turn.
pub fn measure(extent: &Extent, report: &mut Report) {
    let count = extent.lives;
    progress(&format!("{count} containers come and go"));
    let compared = COMPARED.min(count / 2);
    let [mut young, mut old] = [Course::new(), Course::new()];
    for _ in compared..count {
        old.advance();
    }
    let [mut first, mut last] = [Samples::default(), Samples::default()];
    for _ in 0..compared {
        first.push(young.advance());
        last.push(old.advance());
    }
    let ratio = TARGET.cells(last.ratio(&first), "");
    report.table(
        &format!("{count} containers come and go"),
        "calls | ratio | target | first | last",
        vec![format!("ADD, {compared} each | {ratio} | {first} | {last}")],
        "The last relative to the first, on two nodes in turns; ten containers at a time, each \
         with a static port that others had before.",
    );
}
