/* Keeps the region `#live` of a page fresh, asks before an action that loses something, and says when it last did. */
(function () {
    "use strict";

    var region = document.getElementById("live"),
        updated = document.getElementById("updated"),
        lastUpdate = new Date();

    function clockTime(moment) {
        return moment.toISOString().slice(11, 19) + " UTC";
    }

    function isInUse() {
        var focused = document.activeElement;
        return document.hidden ||
            (region.contains(focused) && /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(focused.tagName)) ||
            String(window.getSelection()).length > 0;
    }

    function keepOpen(fresh) {
        region.querySelectorAll("details[id]").forEach(function (old) {
            var same = fresh.querySelector("#" + CSS.escape(old.id));
            if (same) {
                same.open = old.open;
            }
        });
    }

    function show(page) {
        var fresh = page.getElementById("live"),
            focused = document.activeElement && document.activeElement.id;
        if (!fresh) {
            throw new Error("no such region");
        }
        keepOpen(fresh);
        region.replaceChildren.apply(region, Array.from(fresh.childNodes));
        ["pending-alerts", "pending-alerts-narrow"].forEach(function (id) {
            var badge = document.getElementById(id),
                freshBadge = page.getElementById(id);
            if (badge && freshBadge) {
                badge.replaceWith(freshBadge);
            }
        });
        if (focused && document.getElementById(focused)) {
            document.getElementById(focused).focus();
        }
    }

    function refresh() {
        if (isInUse()) {
            return;
        }
        fetch(window.location.href, {cache: "no-store", redirect: "error"}).then(function (response) {
            if (!response.ok) {
                throw new Error(response.status);
            }
            return response.text();
        }).then(function (text) {
            show(new DOMParser().parseFromString(text, "text/html"));
            lastUpdate = new Date();
            updated.textContent = "Updated at " + clockTime(lastUpdate);
            updated.classList.remove("text-danger");
        }).catch(function () {
            updated.textContent = "Not updated since " + clockTime(lastUpdate) + ": no answer";
            updated.classList.add("text-danger");
        });
    }

    document.addEventListener("submit", function (event) {
        var question = (event.submitter && event.submitter.dataset.confirm) || event.target.dataset.confirm;
        if (question && !window.confirm(question)) {
            event.preventDefault();
        }
    });

    if (region && updated && region.dataset.refreshSeconds) {
        window.setInterval(refresh, Number(region.dataset.refreshSeconds) * 1000);
    }
}());
