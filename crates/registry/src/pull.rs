//! `docker pull`.

use std::rc::Rc;
use std::sync::Arc;

use gantry_image::registry::{
    Descriptor, Index, Manifest, Media, PulledImage, PulledLayer, PulledNames,
};
use gantry_image::{ImageError, Platform, Reference};

use crate::auth::AuthConfig;
use crate::error::RegistryError;
use crate::event::{Report, layer, line};
use crate::session::{Access, Document, Session, endpoints};
use crate::{Registry, jobs, short};

/// Indexes inside indexes.
const MAX_INDEX_DEPTH: usize = 4;
/// Tags that one request pulls.
pub const MAX_TAGS: usize = 10_000;

/// Which images of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one of the reference's tag or digest.
    One,
    /// Every tag.
    All,
}

/// What is to be pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// With a tag or a digest, unless all tags are meant.
    pub reference: Reference,
    /// One or all.
    pub which: Which,
    /// The platform; this machine's if none is named.
    pub platform: Option<Platform>,
    /// Who asks.
    pub auth: AuthConfig,
}

/// A manifest, and the index it was chosen from.
struct Chosen {
    manifest: Document,
    index: Option<Document>,
}

impl Chosen {
    /// What the repository's name is bound to.
    fn digest(&self) -> &str {
        &self.index.as_ref().unwrap_or(&self.manifest).digest
    }
}

impl Registry {
    /// Pulls, in the guest lane; given up when it is dropped. An error before the first event is the answer to the
    /// request, one after it a part of the stream.
    pub async fn pull(
        self: &Arc<Self>,
        request: &PullRequest,
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let settings = self.settings();
        let reference = &request.reference;
        let mut last = RegistryError::Protocol("no endpoint for this registry".into());
        for endpoint in endpoints(&settings, reference.domain(), true).await? {
            let opened = Session::open(
                &settings,
                &endpoint,
                reference.path(),
                &request.auth,
                Access::Pull,
            );
            let session = match opened.await {
                Ok(session) => Rc::new(session),
                Err(error) => {
                    tracing::info!(%error, url = %endpoint.url, "a registry's endpoint does not answer");
                    last = error;
                    continue;
                }
            };
            let told = std::cell::Cell::new(false);
            let watched = |event| {
                told.set(true);
                report(event);
            };
            let pulled = match request.which {
                Which::One => self.pull_one(&session, request, reference, &watched).await,
                Which::All => self.pull_all(&session, request, &watched).await,
            };
            match pulled {
                // What a mirror has not, or cannot give, the next one may.
                Err(error) if endpoint.mirror && !told.get() => {
                    tracing::info!(%error, url = %endpoint.url, "a mirror cannot serve a pull");
                    last = error.of_pull(reference);
                }
                pulled => return pulled.map_err(|e| e.of_pull(reference)),
            }
        }
        Err(last)
    }

    async fn pull_all(
        self: &Arc<Self>,
        session: &Rc<Session>,
        request: &PullRequest,
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let tags = session.tags().await?;
        if tags.len() > MAX_TAGS {
            return Err(RegistryError::Protocol(format!(
                "the repository has more than {MAX_TAGS} tags"
            )));
        }
        if tags.is_empty() {
            let name = request.reference.familiar_name();
            return Err(RegistryError::Protocol(format!("no tags found for {name}")));
        }
        for tag in tags {
            let reference = request.reference.clone().with_tag(&tag)?;
            self.pull_one(session, request, &reference, report)
                .await
                .map_err(|e| e.of_pull(&reference))?;
        }
        Ok(())
    }

    async fn pull_one(
        self: &Arc<Self>,
        session: &Rc<Session>,
        request: &PullRequest,
        reference: &Reference,
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        let top = session.manifest(wanted).await?;
        if Media::of(&top.media_type).is_none() {
            return Err(unknown_media(&top));
        }
        let shown = match reference.digest() {
            Some(_) => reference.familiar(),
            None => wanted.to_owned(),
        };
        report(line(
            Some(&shown),
            format!("Pulling from {}", reference.path()),
        ));
        let chosen = choose(session, top, request.platform.as_ref(), reference).await?;
        let manifest = Manifest::parse(&chosen.manifest.bytes)?;
        check_config(&manifest.config)?;
        let shared = self.want_config(&manifest.config.digest);
        let config = self.config(session, &manifest.config, &shared).await?;
        let image = PulledImage::parse(config.to_vec(), manifest.layers.len())?;
        let lease = Arc::new(self.images.lease());
        let result = self
            .bring_image(
                session, &chosen, &manifest, &image, &lease, reference, report,
            )
            .await;
        // What nobody has then is removed: files.
        jobs::short(move || drop(lease)).await?;
        let changed = result?;
        report(line(None, format!("Digest: {}", chosen.digest())));
        let how = if changed {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        report(line(
            None,
            format!("Status: {how} for {}", reference.familiar()),
        ));
        if let Some(wanted) = request
            .platform
            .as_ref()
            .filter(|p| !p.fits(&image.platform))
        {
            report(line(
                None,
                format!(
                    "WARNING: image with reference {} was found but its platform ({}) does not match the specified platform ({wanted})",
                    reference.familiar(),
                    image.platform
                ),
            ));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a pull")]
    async fn bring_image(
        self: &Arc<Self>,
        session: &Rc<Session>,
        chosen: &Chosen,
        manifest: &Manifest,
        image: &PulledImage,
        lease: &Arc<gantry_image::registry::ContentLease>,
        reference: &Reference,
        report: Report<'_>,
    ) -> Result<bool, RegistryError> {
        let names = PulledNames {
            tag: reference.digest().is_none().then(|| reference.clone()),
            digest: reference.with_digest(chosen.digest())?,
        };
        if self.has_names(image, &names) {
            return Ok(false);
        }
        let layers = self
            .bring_layers(session, manifest, image, lease, report)
            .await?;
        let images = self.images.clone();
        let image = image.clone();
        let mut documents = vec![chosen.manifest.bytes.clone()];
        documents.extend(chosen.index.as_ref().map(|d| d.bytes.clone()));
        let digests: Vec<String> = manifest.layers.iter().map(|l| l.digest.clone()).collect();
        let changed = jobs::long("image-commit", move || {
            let documents: Vec<&[u8]> = documents.iter().map(|d| &d[..]).collect();
            let changed = images.commit_pulled(&image, layers, &documents, &names)?;
            images.forget_partials(&digests)?;
            Ok::<_, ImageError>(changed)
        });
        Ok(changed.await??)
    }

    /// The image is here under these names already.
    fn has_names(&self, image: &PulledImage, names: &PulledNames) -> bool {
        let snapshot = self.images.snapshot();
        let id = |reference: &Reference| snapshot.id_of(reference);
        names.tag.iter().all(|tag| id(tag) == Some(&image.id))
            && id(&names.digest) == Some(&image.id)
            && snapshot.get(&image.id).is_some()
    }

    async fn bring_layers(
        self: &Arc<Self>,
        session: &Rc<Session>,
        manifest: &Manifest,
        image: &PulledImage,
        lease: &Arc<gantry_image::registry::ContentLease>,
        report: Report<'_>,
    ) -> Result<Vec<PulledLayer>, RegistryError> {
        let (images, held) = (self.images.clone(), lease.clone());
        let diff_ids = image.diff_ids.clone();
        let blobs: Vec<String> = manifest.layers.iter().map(|l| l.digest.clone()).collect();
        let known: Vec<Option<PulledLayer>> = jobs::short(move || {
            for digest in blobs.iter().chain(&diff_ids) {
                held.add(digest);
            }
            let both = diff_ids.iter().zip(&blobs);
            both.map(|(id, blob)| images.known_layer(id, blob))
                .collect()
        })
        .await?;
        for (blob, known) in manifest.layers.iter().zip(&known) {
            let text = match known {
                Some(_) => "Already exists",
                None => "Pulling fs layer",
            };
            report(layer(&short(&blob.digest), text));
        }
        let bring = |at: usize| {
            let (blob, diff_id) = (&manifest.layers[at], &image.diff_ids[at]);
            let known = known[at].clone();
            async move {
                match known {
                    Some(known) => Ok(known),
                    None => self.layer(session, blob, diff_id, report).await,
                }
            }
        };
        let all: Vec<_> = (0..known.len()).map(|at| Box::pin(bring(at))).collect();
        join_all(all).await
    }
}

/// Runs all at once; the first error ends the others.
pub(crate) async fn join_all<T, F>(mut all: Vec<F>) -> Result<Vec<T>, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>> + Unpin,
{
    use std::task::Poll;
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut left = 0;
        for (slot, future) in done.iter_mut().zip(&mut all) {
            if slot.is_some() {
                continue;
            }
            match std::pin::Pin::new(future).poll(cx) {
                Poll::Ready(Ok(value)) => *slot = Some(value),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => left += 1,
            }
        }
        if left > 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(done.iter_mut().filter_map(Option::take).collect()))
    })
    .await
}

fn unknown_media(document: &Document) -> RegistryError {
    RegistryError::Protocol(
        match serde_json::from_slice::<serde::de::IgnoredAny>(&document.bytes) {
            Ok(_) => format!("unsupported media type {}", document.media_type),
            Err(_) => format!(
                "error unmarshalling content: the manifest is no JSON ({})",
                document.media_type
            ),
        },
    )
}

/// Follows indexes to the manifest of the platform.
async fn choose(
    session: &Session,
    top: Document,
    platform: Option<&Platform>,
    reference: &Reference,
) -> Result<Chosen, RegistryError> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let mut index = None;
    let mut at = top;
    for _ in 0..MAX_INDEX_DEPTH {
        match Media::of(&at.media_type) {
            Some(Media::Manifest) => {
                return Ok(Chosen {
                    manifest: at,
                    index,
                });
            }
            Some(Media::Index) => {
                let parsed = Index::parse(&at.bytes)?;
                let entry = parsed.choose(wanted).ok_or_else(|| {
                    RegistryError::Protocol(format!(
                        "no matching manifest for {wanted} in the manifest list entries"
                    ))
                })?;
                let next = session.manifest(&entry.digest).await?;
                index.get_or_insert(at);
                at = next;
            }
            Some(Media::Schema1) => {
                return Err(RegistryError::Protocol(format!(
                    "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is \
                     disabled by default and will be removed in an upcoming release. Suggest the author of {} to upgrade \
                     the image to the OCI Format or Docker Image manifest v2, schema 2. More information at \
                     https://docs.docker.com/go/deprecated-image-specs/",
                    reference.full()
                )));
            }
            None => return Err(unknown_media(&at)),
        }
    }
    Err(RegistryError::Protocol(format!(
        "more than {MAX_INDEX_DEPTH} nested indexes"
    )))
}

/// Only images are pulled: other artifacts have another kind of config.
fn check_config(config: &Descriptor) -> Result<(), RegistryError> {
    let class = match config.media_type.as_str() {
        ""
        | "application/vnd.docker.container.image.v1+json"
        | "application/vnd.oci.image.config.v1+json"
        | "application/octet-stream"
        | "text/html" => return Ok(()),
        "application/vnd.docker.plugin.v1+json" => "plugin",
        _ => "unknown",
    };
    Err(RegistryError::Protocol(format!(
        "Encountered remote {:?}({class}) when fetching",
        config.media_type
    )))
}
