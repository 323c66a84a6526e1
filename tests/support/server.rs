//! natwatch running as a server in a namespace.

use std::io::{Error, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Command;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::connect;
use rustix::process::Signal;

use super::http::{self, Response};
use super::netns::Netns;
use super::process::{Daemon, free_port};
use super::program::{HERE, NATWATCH, command_as};
use super::router::Proto;
use super::sockets::bound_socket;
use super::wait::PATIENCE;

/// A natwatch that serves in a namespace.
#[derive(Debug)]
pub struct Server<'a> {
    pub ns: &'a Netns,
    pub daemon: Daemon,
    pub port: u16,
}

impl<'a> Server<'a> {
    /// Serves on a free port of the loopback address; returns when it accepts connections. Without a subcommand
    /// natwatch serves.
    pub fn start(ns: &'a Netns, flags: &[&str]) -> Self {
        Self::on_free_port(ns, ns.command(NATWATCH), flags)
    }

    /// The same with the subcommand `serve`, through other programs: see [`command_as`].
    pub fn start_as(ns: &'a Netns, words: &[&str], flags: &[&str]) -> Self {
        let mut command = command_as(ns, words);
        command.arg("serve");
        Self::on_free_port(ns, command, flags)
    }

    fn on_free_port(ns: &'a Netns, mut command: Command, flags: &[&str]) -> Self {
        let port = free_port();
        command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]).args(flags);
        Self::from_command(ns, command, port)
    }

    /// The same with a command of the test's own.
    pub fn from_command(ns: &'a Netns, command: Command, port: u16) -> Self {
        let mut daemon = Daemon::start(command);
        daemon.wait_listening(ns, port);
        Self { ns, daemon, port }
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// GETs a path.
    #[track_caller]
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        http::get(self.ns, self.address(), path, headers)
    }

    /// GETs a path that must be answered with 200.
    #[track_caller]
    pub fn ok(&self, path: &str) -> String {
        let response = self.get(path, &[]);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.text().to_owned()
    }

    /// Sends raw bytes and returns all that comes back.
    pub fn raw(&self, request: &str) -> Result<Response, Error> {
        let address = self.address();
        self.ns.enter(|| http::parse(&http::exchange(address, request.as_bytes())?))
    }

    /// Opens a connection and sends this on it.
    #[track_caller]
    pub fn open(&self, text: &str) -> TcpStream {
        self.open_from(Ipv4Addr::LOCALHOST, text)
    }

    /// The same from another address of the loopback network.
    #[track_caller]
    pub fn open_from(&self, from: Ipv4Addr, text: &str) -> TcpStream {
        let opened = self.try_open_from(from, text);
        opened.unwrap_or_else(|error| panic!("from {from} to {}: {error}", self.address()))
    }

    /// The same, which may fail.
    pub fn try_open_from(&self, from: Ipv4Addr, text: &str) -> Result<TcpStream, Error> {
        let socket = self.ns.enter(|| bound_socket(Proto::Tcp, SocketAddrV4::new(from, 0)));
        fcntl_setfl(&socket, OFlags::empty())?;
        connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(text.as_bytes())?;
        Ok(stream)
    }

    /// Stops it with a signal; panics unless it ends in order.
    #[track_caller]
    pub fn stop(mut self) {
        self.daemon.signal(Signal::TERM);
        assert_eq!(self.daemon.wait(PATIENCE).code(), Some(0), "{}", self.daemon.stderr());
    }
}

/// A command that runs natwatch with a file system that never responds, mounted in the mount namespace that `ip netns
/// exec` makes: every access blocks inside the kernel until natwatch ends.
pub fn hanging(ns: &Netns, tree: &str, flags: &[&str]) -> (Command, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let script = "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 silent \"$0\" \
                  && exec \"$@\"";
    let mut command = ns.command("sh");
    command.args(["-c", script]).arg(dir.path()).arg(NATWATCH).args(flags);
    command.arg(format!("--path.{tree}")).arg(dir.path());
    (command, dir)
}

/// A server that reads from such a file system.
pub fn hanging_server<'a>(ns: &'a Netns, tree: &str, flags: &[&str]) -> (Server<'a>, tempfile::TempDir) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let flags = [&["serve", "--web.listen-address", &address], &HERE[..], flags].concat();
    let (command, dir) = hanging(ns, tree, &flags);
    (Server::from_command(ns, command, port), dir)
}
