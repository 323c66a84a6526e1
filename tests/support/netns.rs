//! Network namespaces that are removed at the end of the test.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::panic;
use std::path::Path;
use std::process::{self, Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::tools::{checked, expect_success, require, require_root};
use super::wait::{PATIENCE, eventually};

/// What the names of all test namespaces begin with; pid and number follow.
const PREFIX: &str = "natwatch-test-";

/// Leftovers are searched for once per process.
static SWEPT: Once = Once::new();

/// Numbers the namespaces of this process.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A network namespace with `lo` up, deleted on drop, also while a test panics.
///
/// Declare it before the processes that run in it: locals are dropped in reverse order,
/// and a namespace outlives its name for as long as a process is inside.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Netns {
    /// Makes an empty namespace; the name carries the pid, so that leftovers of a killed run
    /// can be told from those of a live one.
    pub fn new() -> Self {
        require_root();
        require("ip");
        SWEPT.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ns = Self { name: format!("{PREFIX}{}-{number}", process::id()) };
        expect_success(Command::new("ip").args(["netns", "add", &ns.name]));
        ns.cmd("ip link set lo up");
        ns
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside, with `/sys` showing this namespace's devices.
    ///
    /// `ip netns exec` replaces itself by the program, so a child's pid is the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).env("LC_ALL", "C");
        command
    }

    /// Runs a program inside and returns what it did, whether it succeeded or not.
    pub fn exec(&self, argv: &[&str]) -> Output {
        let (program, args) = argv.split_first().expect("a program to run");
        require(program);
        let mut command = self.command(program);
        command.args(args);
        command.output().unwrap_or_else(|e| panic!("cannot start {argv:?}: {e}"))
    }

    /// Runs a program inside and returns its stdout; panics with its stderr if it fails.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> String {
        checked(&format!("{argv:?} in {}", self.name), self.exec(argv))
    }

    /// `run` for a command line without quoting: words are split at blanks.
    #[track_caller]
    pub fn cmd(&self, line: &str) -> String {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Sets a sysctl of this namespace. `key` has dots, or slashes if a device name has dots.
    pub fn sysctl(&self, key: &str, value: impl ToString) {
        let (path, value) = (sysctl_path(key), value.to_string());
        self.enter(|| fs::write(&path, &value)).unwrap_or_else(|e| panic!("{path} = {value} in {}: {e}", self.name));
    }

    /// Reads a sysctl of this namespace, without the newline.
    pub fn read_sysctl(&self, key: &str) -> String {
        let path = sysctl_path(key);
        let text = self.enter(|| fs::read_to_string(&path));
        text.unwrap_or_else(|e| panic!("{path} in {}: {e}", self.name)).trim().to_owned()
    }

    /// Reads `/proc/net/NAME` as this namespace sees it.
    pub fn proc_net(&self, name: &str) -> String {
        let path = format!("/proc/thread-self/net/{name}");
        self.enter(|| fs::read_to_string(&path)).unwrap_or_else(|e| panic!("{path} in {}: {e}", self.name))
    }

    /// Runs `work` on a thread that has moved into the namespace and returns its result.
    ///
    /// Sockets, `/proc/sys/net` and threads started by `work` belong to the namespace.
    /// `/proc/net` does not (it follows the main thread: use `/proc/thread-self/net`), nor
    /// does `/sys` (it was mounted elsewhere: use [`Netns::command`]).
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let moved = || {
            self.move_current_thread();
            work()
        };
        thread::scope(|scope| scope.spawn(moved).join()).unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// It cannot be undone, so this is only for threads that end soon.
    fn move_current_thread(&self) {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|e| panic!("setns to {}: {e}", self.name));
    }

    /// Gives `device` an address such as `192.0.2.1/24`. IPv6 ones are usable at once
    /// (no duplicate address detection).
    pub fn address(&self, device: &str, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.cmd(&format!("ip addr add {address} dev {device} {nodad}"));
    }

    /// Adds a route, for example `route("default via 192.0.2.1")`.
    pub fn route(&self, route: &str) {
        let family = if route.contains(':') { "-6" } else { "-4" };
        self.cmd(&format!("ip {family} route add {route}"));
    }

    /// Sets a device up. Its carrier may come later: see [`Netns::wait_up`].
    pub fn up(&self, device: &str) {
        self.cmd(&format!("ip link set {device} up"));
    }

    /// Waits until the kernel calls the device operational; before, packets are lost silently.
    pub fn wait_up(&self, device: &str) {
        eventually(PATIENCE, || {
            let state = self.link_json(device)["operstate"].clone();
            if state == "UP" {
                return Ok(());
            }
            Err(format!("{device} in {} has operstate {state}", self.name))
        });
    }

    /// The hardware address of `device`.
    pub fn mac(&self, device: &str) -> String {
        let link = self.link_json(device);
        link["address"].as_str().expect("a MAC address").to_owned()
    }

    /// The device's entry of `ip -d -j link`.
    pub fn link_json(&self, device: &str) -> Value {
        let text = self.run(&["ip", "-d", "-j", "link", "show", "dev", device]);
        let list: Value = serde_json::from_str(&text).expect("ip prints JSON");
        list[0].clone()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let result = Command::new("ip").args(["netns", "del", &self.name]).output();
        match result {
            Ok(output) if output.status.success() => {}
            other => eprintln!("namespace {} was left behind: {other:?}", self.name),
        }
    }
}

/// Deletes the namespaces of killed test processes.
fn sweep() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let rest = name.strip_prefix(PREFIX);
        let pid = rest.and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // If another process was quicker, nothing is left to delete.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// Connects two namespaces by a veth pair and sets both ends up.
pub fn veth(a: &Netns, a_device: &str, b: &Netns, b_device: &str) {
    let peer = b.name();
    a.cmd(&format!("ip link add {a_device} type veth peer name {b_device} netns {peer}"));
    a.up(a_device);
    b.up(b_device);
    a.wait_up(a_device);
    b.wait_up(b_device);
}

/// Connects two devices of one namespace and sets both up.
pub fn veth_within(ns: &Netns, one: &str, other: &str) {
    ns.cmd(&format!("ip link add {one} type veth peer name {other}"));
    ns.up(one);
    ns.up(other);
    ns.wait_up(one);
    ns.wait_up(other);
}

/// Adds a permanent neighbour entry for `address`: without ARP no packet waits for a reply.
pub fn fixed_neighbour(ns: &Netns, device: &str, address: &str, owner: (&Netns, &str)) {
    let mac = owner.0.mac(owner.1);
    ns.cmd(&format!("ip neigh replace {address} lladdr {mac} dev {device} nud permanent"));
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` name the same file.
fn sysctl_path(key: &str) -> String {
    if key.contains('/') {
        return format!("/proc/sys/{key}");
    }
    format!("/proc/sys/{}", key.replace('.', "/"))
}
