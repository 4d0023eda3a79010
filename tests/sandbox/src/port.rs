//! Ports that stay a sandbox's own, also while no server listens on them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

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
    /// Takes `address` in this process's network; port 0 is any free one.
    ///
    /// # Errors
    /// The address is of another machine, or somebody listens there.
    pub(crate) fn hold(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self::Here { address: socket.local_addr()?, _held: cfg!(target_os = "linux").then_some(socket) })
    }

    /// Any free port of the same network and host.
    pub(crate) fn beside(&self) -> io::Result<Self> {
        let any = SocketAddr::new(self.address().ip(), 0);
        match self {
            Self::Here { .. } => Self::hold(any),
            Self::Elsewhere { .. } => Ok(Self::Elsewhere { address: any }),
        }
    }

    /// Notes what the server says it took.
    pub(crate) fn taken(&mut self, taken: SocketAddr) {
        if let Self::Elsewhere { address } = self {
            *address = taken;
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (Self::Here { address, .. } | Self::Elsewhere { address }) = self;
        *address
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_port_refuses_connections_and_lets_its_server_listen_again_and_again() {
        let port = Port::hold(ANY_PORT).expect("a free port");
        let refused = TcpStream::connect(port.address()).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for _ in 0..2 {
            let server = TcpListener::bind(port.address()).expect("the port is its own");
            TcpStream::connect(port.address()).expect("the server listens");
            let (accepted, client) = server.accept().expect("a connection waits");
            assert_eq!(accepted.local_addr().expect("it is connected"), port.address());
            assert_ne!(client, port.address());
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_cannot_be_held() {
        let somebody = TcpListener::bind(ANY_PORT).expect("a free port");
        let address = somebody.local_addr().expect("it is bound");
        let refused = Port::hold(address).err().expect("it is taken");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
