//! The cluster that a command talks to.

use std::time::Duration;

use clap::Args;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Failure, block_on};
use crate::causes::with_causes;
use crate::pages;

/// Lists are read in pages of so many.
const PAGE: u32 = 500;

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The kubeconfig's context to use [default: the current one; in a pod, its service account]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Give up when the API server has not answered all within so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// A client, and the namespace that its context is in.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl Connection {
    /// Works with the cluster, within the time.
    pub(super) fn work<T>(&self, work: impl AsyncFnOnce(Connected) -> Result<T, Failure>) -> Result<T, Failure> {
        self.work_longer(0, work)
    }

    /// The same, within so many seconds more.
    pub(super) fn work_longer<T>(
        &self,
        seconds: u64,
        work: impl AsyncFnOnce(Connected) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let within = self.timeout + seconds;
        block_on(async {
            let all = async { work(self.connect().await?).await };
            timeout(Duration::from_secs(within), all).await.map_err(|_| {
                Failure::Work(format!(
                    "the API server did not answer all within {within} s: is it reachable? --timeout gives it longer"
                ))
            })?
        })?
    }

    async fn connect(&self) -> Result<Connected, Failure> {
        let mut config = match &self.context {
            None => Config::infer().await.map_err(|error| {
                Failure::Usage(format!("no cluster is known: {error}: set KUBECONFIG, or run in a pod"))
            })?,
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options)
                    .await
                    .map_err(|error| Failure::Usage(format!("--context {context}: {error}")))?
            }
        };
        // Whoever waits at a terminal is told at once what the API server has no time for.
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        Ok(Connected { client: Client::try_from(config).map_err(Failure::usage)?, namespace })
    }
}

/// Every object of a kind, page by page.
pub(super) async fn each<K>(api: &Api<K>, take: impl FnMut(K)) -> kube::Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    pages::each(ListParams::default().limit(PAGE), async |params| api.list(&params).await, take).await
}

/// Every object of a kind.
pub(super) async fn all<K>(api: &Api<K>) -> kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    each(api, |item| items.push(item)).await?;
    Ok(items)
}

/// What is said of an API server that does not let something be read.
pub(super) fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => with_causes(other),
    }
}
