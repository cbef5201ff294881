//! The CNI plugin: the edges of the process around one call.

use std::{
    io::{self, Read, Write},
    mem, panic,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use portclaim::{
    cni::{Environment, STDIN_LIMIT},
    command::{self, Call, Reply},
};
use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("portclaim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let environment = Environment::read(|name| {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    });
    let call = read(environment);
    // The panic's own message goes to stderr, which the runtime keeps.
    let mut open = command::Open::default();
    let run = panic::AssertUnwindSafe(|| command::run(&call, &mut open));
    let reply = panic::catch_unwind(run).unwrap_or_else(|_| command::panicked());
    let is_done = write(&reply).is_ok() && reply.success;
    // Whatever comes of it: the call is over.
    let count = panic::AssertUnwindSafe(|| reply.count(start.elapsed()));
    _ = panic::catch_unwind(count);
    // The end of the process closes it, when all else of it is gone.
    mem::forget(open);
    if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(environment: Environment) -> Call {
    let mut stdin = Vec::new();
    // What cannot be read is not there: the configuration is then no JSON.
    let limit = STDIN_LIMIT as u64 + 1;
    _ = io::stdin().take(limit).read_to_end(&mut stdin);
    let boot = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::try_from(boot).unwrap_or_default();
    Call { environment, path: std::env::var_os("PATH"), stdin, now: SystemTime::now(), since_boot }
}

fn write(reply: &Reply) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if !reply.stdout.is_empty() {
        writeln!(stdout, "{}", reply.stdout)?;
    }
    stdout.flush()
}
