//! The NameServers to query and the output format, shared by all commands that talk to servers.

use clap::Args;

use super::Failure;
use super::output::Format;
use crate::client::{ClientError, ClientOptions};

#[derive(Args, Clone, Debug)]
pub struct Target {
    /// NameServers to query, `HOST:PORT`; separate several with `,` or `;`.
    #[arg(
        long,
        env = "RINGMQ_NAMESRV",
        default_value = "127.0.0.1:9876",
        value_name = "HOST:PORT[,HOST:PORT]"
    )]
    namesrv: String,

    /// Output format.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

impl Target {
    pub fn client(&self) -> ClientOptions {
        ClientOptions::new(self.namesrv.clone())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoNameServer { .. } | ClientError::NotReached { .. } => {
                Self::unreachable(error)
            }
            ClientError::NameServerList { .. } | ClientError::BadMessageId(_) => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}
