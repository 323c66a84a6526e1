//! natwatch as a server in a namespace.

use std::io::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use rustix::process::Signal;

use super::http::{self, Response};
use super::netns::Netns;
use super::process::{Daemon, free_port};
use super::program::{NATWATCH, command_as};
use super::wait::PATIENCE;

/// A natwatch that serves in a namespace.
#[derive(Debug)]
pub struct Server<'a> {
    pub ns: &'a Netns,
    pub daemon: Daemon,
    pub port: u16,
}

impl<'a> Server<'a> {
    /// Serves on a free port of the loopback address; returns when it accepts. Serving is what natwatch does without a
    /// sub-command.
    pub fn start(ns: &'a Netns, flags: &[&str]) -> Self {
        Self::on_free_port(ns, ns.command(NATWATCH), flags)
    }

    /// The same with the sub-command `serve`, through other programs: see [`command_as`].
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

    /// Where it listens.
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

    /// Ends it in order.
    #[track_caller]
    pub fn stop(mut self) {
        self.daemon.signal(Signal::TERM);
        assert_eq!(self.daemon.wait(PATIENCE).code(), Some(0), "{}", self.daemon.stderr());
    }
}
