//! Ports that nobody else is given, also while no server of the sandbox listens on them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::error::SandboxError;
use crate::wait::wait_until;

/// How long the port of a server that was killed, or of a connection to it, may take to come free.
const FREE_WITHIN: Duration = Duration::from_secs(10);

/// Any free port of this machine.
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A port for one server, which is told it and binds it by itself.
///
/// A server that was killed is expected back at its address. Until then the system would hand its port to whoever asks for any
/// free one, were it the local end of a peer's attempt to reach that server. On Linux a socket that is bound and never listens
/// forbids this: connections are refused, and a server may listen beside it, as both allow the address to be reused. Other
/// systems refuse the second bind, so there the port is only chosen, not kept.
pub(crate) enum Port {
    /// Of this process's network.
    Here { address: SocketAddr, _held: Option<TcpSocket> },
    /// Of another network, where the server binds it; port 0 until the server says which it took.
    Elsewhere { address: SocketAddr },
}

impl Port {
    /// Takes `address` in this process's network for a server; port 0 is any free one.
    ///
    /// # Errors
    /// [`SandboxError::Listen`] if the address is of another machine, or its port does not come free.
    pub(crate) async fn hold(server: &str, address: SocketAddr) -> Result<Self, SandboxError> {
        let socket = when_free(server, address, || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        let socket = socket.await?;
        let address = socket.local_addr().expect("it is bound");
        Ok(Self::Here { address, _held: cfg!(target_os = "linux").then_some(socket) })
    }

    /// Any free port of the same network and host, for the same server.
    pub(crate) async fn beside(&self, server: &str) -> Result<Self, SandboxError> {
        let any = SocketAddr::new(self.address().ip(), 0);
        match self {
            Self::Here { .. } => Self::hold(server, any).await,
            Self::Elsewhere { .. } => Ok(Self::Elsewhere { address: any }),
        }
    }

    /// Notes what the server says it took.
    pub(crate) fn taken(&mut self, taken: SocketAddr) {
        let (Self::Here { address, .. } | Self::Elsewhere { address }) = self;
        *address = taken;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (Self::Here { address, .. } | Self::Elsewhere { address }) = self;
        *address
    }
}

/// What `bind` gives once `address` is free for a server.
pub(crate) async fn when_free<T>(
    server: &str,
    address: SocketAddr,
    mut bind: impl FnMut() -> io::Result<T>,
) -> Result<T, SandboxError> {
    let mut taken = None;
    let bound = wait_until("the port", FREE_WITHIN, || {
        let state = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let told = error.to_string();
                taken = Some(error);
                Err(told)
            }
            // The end of it, for good or ill.
            bound => Ok(bound),
        };
        async move { state }
    });
    let refused = match (bound.await, taken) {
        (Ok(Ok(bound)), _) => return Ok(bound),
        (Ok(Err(source)), _) | (Err(_), Some(source)) => source,
        (Err(error), None) => return Err(error),
    };
    Err(SandboxError::Listen { server: server.to_owned(), address, source: refused })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_held_port_refuses_connections_and_lets_its_server_listen_again_and_again() {
        let port = Port::hold("node-1", ANY_PORT).await.expect("a free port");
        let refused = TcpStream::connect(port.address()).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // As whoever does not name it, the local end of a connection among them.
        let stranger = TcpSocket::new_v4().expect("a socket").bind(port.address()).expect_err("it is held");
        assert_eq!(stranger.kind(), io::ErrorKind::AddrInUse);
        for _ in 0..2 {
            let server = TcpListener::bind(port.address()).expect("the port is its own");
            TcpStream::connect(port.address()).expect("the server listens");
            let (accepted, client) = server.accept().expect("a connection waits");
            assert_eq!(accepted.local_addr().expect("it is connected"), port.address());
            assert_ne!(client, port.address());
        }
    }

    #[tokio::test]
    async fn a_port_that_somebody_listens_on_is_held_as_soon_as_it_is_free() {
        let somebody = TcpListener::bind(ANY_PORT).expect("a free port");
        let address = somebody.local_addr().expect("it is bound");
        // Polled in this order: the first look finds it taken.
        let (held, ()) = tokio::join!(biased; Port::hold("node-1", address), async { drop(somebody) });
        assert_eq!(held.expect("it came free").address(), address);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_by_server_and_address() {
        // For documentation alone (RFC 5737).
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 7400));
        let refused = Port::hold("node-1", elsewhere).await.err().expect("it is not of this machine");
        let SandboxError::Listen { server, address, source } = refused else { panic!("{refused:?}") };
        assert_eq!((server.as_str(), address, source.kind()), ("node-1", elsewhere, io::ErrorKind::AddrNotAvailable));
    }
}
