//! Listening sockets: opened by address, or passed by systemd.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};

/// Opens the listening sockets.
///
/// # Errors
/// The address that cannot be used.
pub(crate) fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, String> {
    addresses.iter().map(|address| bind_one(address)).collect()
}

fn bind_one(address: &str) -> Result<TcpListener, String> {
    let candidates: Vec<SocketAddr> = match address.strip_prefix(':') {
        // As in Go: all addresses of the machine. The IPv6 socket accepts IPv4 as well.
        Some(port) => {
            let port = port.parse().map_err(|_| format!("--web.listen-address {address:?}: not a port"))?;
            vec![([0u16; 8], port).into(), ([0u8; 4], port).into()]
        }
        None => plain(address)
            .to_socket_addrs()
            .map_err(|error| format!("--web.listen-address {address:?}: {error}; write HOST:PORT or :PORT"))?
            .collect(),
    };
    let listener =
        TcpListener::bind(&candidates[..]).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(listener)
}

/// Go also accepts brackets around IPv4 addresses, and manifests have `[$(HOST_IP)]:PORT`.
fn plain(address: &str) -> String {
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match bracketed {
        Some((host, port)) if host.parse::<Ipv4Addr>().is_ok() => format!("{host}{port}"),
        _ => address.to_owned(),
    }
}

/// Sockets passed by systemd.
///
/// # Errors
/// None is passed, or one is not a listening TCP socket.
pub(crate) fn from_systemd() -> Result<Vec<TcpListener>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    let count = passed.len();
    let take = |at| {
        let listener = passed.take_tcp_listener(at).map_err(|error| format!("--web.systemd-socket: {error}"))?;
        let listener = listener.ok_or("--web.systemd-socket: a passed socket is gone")?;
        listener.set_nonblocking(true).map_err(|error| format!("--web.systemd-socket: {error}"))?;
        Ok(listener)
    };
    let listeners: Result<Vec<_>, String> = (0..count).map(take).collect();
    match listeners {
        Ok(listeners) if listeners.is_empty() => Err(
            "--web.systemd-socket: no socket was passed (LISTEN_FDS); is natwatch.socket the unit that starts this?"
                .into(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_go_takes_them() {
        for address in ["127.0.0.1:0", "[127.0.0.1]:0", ":0", "[::1]:0", "localhost:0"] {
            assert!(bind_one(address).is_ok(), "{address}");
        }
        for address in ["127.0.0.1", "[127.0.0.1:0", "::1", ""] {
            assert!(bind_one(address).is_err(), "{address}");
        }
    }
}
