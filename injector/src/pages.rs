//! Lists that are too long for one answer, page by page (Kubernetes API concepts, "Retrieving large results sets in chunks").

use kube::api::{ListParams, ObjectList};

/// Takes every object of a list. The parameters say which, and by their limit how many make a page.
pub(crate) async fn each<K, Page>(
    mut params: ListParams,
    list: impl Fn(ListParams) -> Page,
    mut take: impl FnMut(K),
) -> kube::Result<()>
where
    K: Clone,
    Page: Future<Output = kube::Result<ObjectList<K>>>,
{
    loop {
        let page = list(params.clone()).await?;
        page.items.into_iter().for_each(&mut take);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use kube::core::{ListMeta, TypeMeta};

    use super::*;

    #[tokio::test]
    async fn what_a_page_says_is_left_is_asked_for_until_a_page_says_nothing_of_it() {
        let (asked, mut taken) = (RefCell::new(Vec::new()), Vec::new());
        let list = async |params: ListParams| {
            let place = asked.borrow().len();
            let token = ["second", "third", ""][place];
            asked.borrow_mut().push((params.limit, params.continue_token));
            let metadata = ListMeta { continue_: Some(token.to_owned()), ..ListMeta::default() };
            Ok(ObjectList { types: TypeMeta::default(), metadata, items: vec![2 * place, 2 * place + 1] })
        };
        each(ListParams::default().limit(2), list, |item| taken.push(item)).await.unwrap();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5]);
        let tokens = [None, Some("second"), Some("third")].map(|token| (Some(2), token.map(str::to_owned)));
        assert_eq!(*asked.borrow(), tokens);
    }
}
