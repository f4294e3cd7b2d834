//! The verbs typed by kind.

use serde_json::Value;

use super::{Client, ClientError, DeleteOptions, ListOptions, WatchStream};
use crate::{resource::Resource, v1::Object};

/// A list of one kind.
#[derive(Clone, PartialEq, Debug)]
pub struct TypedList<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Revision of the list: watch from here.
    pub resource_version: String,
}

impl Client {
    /// Reads one object. `namespace` is empty for kinds of the cluster.
    pub async fn get<T: Resource>(&self, namespace: &str, name: &str) -> Result<T, ClientError> {
        typed(self.get_object(T::KIND, namespace, name).await?)
    }

    /// Reads all objects of a kind, page by page at one revision.
    pub async fn list<T: Resource>(&self, options: &ListOptions) -> Result<TypedList<T>, ClientError> {
        let list = self.list_objects(T::KIND, options).await?;
        let items = list.items.into_iter().map(typed).collect::<Result<_, _>>()?;
        Ok(TypedList {
            items,
            resource_version: list.resource_version,
        })
    }

    /// Starts a watch after `resource_version`; without one, the present objects come first.
    pub async fn watch<T: Resource>(
        &self,
        options: &ListOptions,
        resource_version: &str,
    ) -> Result<WatchStream, ClientError> {
        self.watch_objects(T::KIND, options, resource_version).await
    }

    /// Creates an object; answers it as stored.
    pub async fn create<T: Resource>(&self, object: T) -> Result<T, ClientError> {
        typed(self.create_object(object.into_object()).await?)
    }

    /// Replaces all but the status. A resource version in the metadata makes it a compare-and-swap.
    pub async fn update<T: Resource>(&self, object: T) -> Result<T, ClientError> {
        typed(self.update_object(object.into_object()).await?)
    }

    /// Replaces the status alone.
    pub async fn update_status<T: Resource>(&self, object: T) -> Result<T, ClientError> {
        typed(self.update_object_status(object.into_object()).await?)
    }

    /// Merges JSON into an object (RFC 7386): `null` removes a field.
    pub async fn patch_merge<T: Resource>(&self, namespace: &str, name: &str, patch: &Value) -> Result<T, ClientError> {
        typed(self.patch_merge_object(T::KIND, namespace, name, patch, None).await?)
    }

    /// Deletes an object, or asks for its graceful end; answers it as it was last seen.
    pub async fn delete<T: Resource>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<T, ClientError> {
        typed(self.delete_object(T::KIND, namespace, name, options).await?)
    }

    /// Sets the replica count; refused when the present count differs from `current`.
    pub async fn scale<T: Resource>(
        &self,
        namespace: &str,
        name: &str,
        replicas: i32,
        current: Option<i32>,
    ) -> Result<T, ClientError> {
        typed(self.scale_object(T::KIND, namespace, name, replicas, current).await?)
    }
}

pub(super) fn typed<T: Resource>(object: Object) -> Result<T, ClientError> {
    T::from_object(object).ok_or(ClientError::WrongKind(T::KIND))
}
