//! Where log lines go: stderr, which runtimes keep, or a file. Never stdout,
//! which carries only the reply. Messages of libraries below `warn` are left out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use log::{LevelFilter, Log, Metadata, Record};

struct Logger {
    file: Option<File>,
    level: LevelFilter,
}

/// Starts logging. A file that cannot be opened does not keep a container from
/// starting: lines go to stderr then, the first of which says why. A second call
/// changes nothing.
pub fn start(level: LevelFilter, path: Option<&Path>) {
    let open = |path| OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    let (file, error) = match path.map(open).transpose() {
        Ok(file) => (file, None),
        Err(error) => (None, Some(error)),
    };
    if log::set_boxed_logger(Box::new(Logger { file, level })).is_ok() {
        log::set_max_level(level);
    }
    if let (Some(path), Some(error)) = (path, error) {
        log::warn!("cannot open {}: {error}", path.display());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_own = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        metadata.level() <= if is_own { self.level } else { self.level.min(LevelFilter::Warn) }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        // One write a line, so that lines of parallel calls stay whole.
        let line = format!("{now} {} portclaim: {}\n", record.level(), record.args());
        let mut stderr = io::stderr();
        let out: &mut dyn Write = match &self.file {
            Some(file) => &mut &*file,
            None => &mut stderr,
        };
        // Where a line cannot be written there is nobody to tell.
        _ = out.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
