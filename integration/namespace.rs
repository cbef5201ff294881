//! A network namespace, and code and programs that run inside it.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv6Addr, UdpSocket},
    os::fd::AsFd as _,
    panic,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A network namespace with a name under `/run/netns`; dropping it removes the
/// name, and the kernel removes the rest once no process or socket is in it.
pub struct Namespace {
    /// The ID of a process if it is not ours.
    name: String,
    is_ours: bool,
}

impl Namespace {
    /// A new one with only `lo`, which is up. Its name begins with `role` and is
    /// unique in the suite.
    pub fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{role}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name, is_ours: true };
        // Addresses are usable at once: nobody else is here to have the same.
        namespace.sysctl("ipv6/conf/all/accept_dad", "0");
        namespace.sysctl("ipv6/conf/default/accept_dad", "0");
        namespace.ip("link set lo up");
        namespace
    }

    /// The one that a process is in; it goes when its owner removes it.
    pub fn of_process(process: Pid) -> Self {
        Self { name: process.as_raw_nonzero().to_string(), is_ours: false }
    }

    /// Its path, as in `CNI_NETNS`.
    pub fn path(&self) -> PathBuf {
        if self.is_ours {
            PathBuf::from("/run/netns").join(&self.name)
        } else {
            PathBuf::from("/proc").join(&self.name).join("ns/net")
        }
    }

    /// Its name, as `ip link set … netns` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread inside, for good.
    pub fn join(&self) {
        let file = File::open(self.path()).expect("a namespace has a file");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a namespace");
    }

    /// Runs `f` on a thread inside. Sockets made there stay there.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.join();
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Runs a program inside, with `stdin` as its input.
    pub fn output(&self, command: &mut Command, stdin: &[u8]) -> Output {
        self.enter(|| output(command, stdin))
    }

    /// Runs `ip` inside with one command line after the other. Addresses that it adds can
    /// be used afterwards.
    pub fn ip(&self, lines: &str) {
        let result = self.output(Command::new("ip").args(["-batch", "-"]), lines.as_bytes());
        assert!(result.status.success(), "ip {lines}: {}", String::from_utf8_lossy(&result.stderr));
        let added = lines.lines().filter_map(|line| {
            line.trim().strip_prefix("address add ")?.split('/').next()?.parse().ok()
        });
        for address in added {
            self.enter(|| wait_for(address));
        }
    }

    /// Runs `nft` inside on a text of commands and returns what it prints.
    pub fn nft(&self, commands: &str) -> String {
        let result = self.try_nft(commands);
        result.unwrap_or_else(|error| panic!("nft {commands}: {error}"))
    }

    /// Runs `nft` inside on a text of commands that may fail.
    pub fn try_nft(&self, commands: &str) -> Result<String, String> {
        let result = self.output(Command::new("nft").args(["-f", "-"]), commands.as_bytes());
        let text = |bytes| String::from_utf8(bytes).expect("nft speaks UTF-8");
        if result.status.success() { Ok(text(result.stdout)) } else { Err(text(result.stderr)) }
    }

    /// Sets `/proc/sys/net/<key>` inside.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.enter(|| {
            let path = format!("/proc/sys/net/{key}");
            fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        }
    }
}

/// The kernel makes IPv6 addresses usable behind one's back, also without looking for
/// duplicates: while namespaces come and go, up to 35 ms later.
fn wait_for(address: Ipv6Addr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = UdpSocket::bind((address, 0)) {
        assert!(Instant::now() < deadline, "{address}: {error}");
        thread::yield_now();
    }
}

/// Held for writing while this process has the lock of a store: children inherit that.
static STARTS: RwLock<()> = RwLock::new(());

/// Starts a program that may run on for long, where the calling thread is.
pub fn start(command: &mut Command) -> Child {
    let _nobody_locks = STARTS.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Locks a store in this process, and gives it back before the next `start`: what runs on
/// would keep it.
pub fn locking<T>(f: impl FnOnce() -> T) -> T {
    let _nobody_starts = STARTS.write().unwrap_or_else(PoisonError::into_inner);
    f()
}

/// Runs a program where the calling thread is, with `stdin` as its input.
pub fn output(command: &mut Command, stdin: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("stdin is a pipe");
    thread::scope(|scope| {
        // A program may end without having read all of it.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        child.wait_with_output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    })
}

/// Puts an executable file in place, written by a process of its own: this one forks at
/// any time, and a child that still has the file open for writing keeps it from being
/// executed (ETXTBSY).
pub fn write_program(path: &Path, content: &[u8]) {
    let mut install = Command::new("install");
    let result = output(install.args(["--mode=755", "/dev/stdin"]).arg(path), content);
    assert!(result.status.success(), "{install:?}: {}", String::from_utf8_lossy(&result.stderr));
}

fn succeed(command: &mut Command) {
    let result = output(command, b"");
    assert!(result.status.success(), "{command:?}: {}", String::from_utf8_lossy(&result.stderr));
}
