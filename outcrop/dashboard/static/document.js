// A document with the activations of one latent, as the address says behind #: CODER-LATENT-DOCUMENT, and
// behind that a context to begin with.
"use strict";
const [where, title, status, contexts] = [".where", "h1", "[role=status]", ".contexts"].map((name) => document.querySelector(name));
const placeholder = new RegExp(`(${contexts.dataset.placeholder})`);

// Text that is visible already, with its placeholders set apart.
const marked = (text) => text.split(placeholder).map((part, i) => {
  if (i % 2 === 0) return part;
  const sign = document.createElement("span");
  sign.className = "sign";
  sign.textContent = part;
  return sign;
});

const tokens = (number, texts, fired) => {
  const context = document.createElement("div"), line = document.createElement("p");
  context.className = "context";
  context.id = `context-${number}`;
  context.append(line);
  line.className = "tokens";
  line.dir = "auto";
  texts.forEach((text, i) => {
    if (!(i in fired)) return line.append(...marked(text));
    const [shade, activation] = fired[i];
    const piece = document.createElement("span");
    piece.className = `a${shade}`;
    piece.title = `activation ${activation}`;
    piece.append(...marked(text));
    line.append(piece);
  });
  return context;
};

let turn = 0;  // of the address shown last: what was asked for before it may arrive behind it

const show = async (mine) => {
  const [coder, latent, number, begin] = location.hash.slice(1).split("-");
  if (![coder, latent, number].every((part) => /^\d+$/.test(part ?? ""))) throw new Error("the address names no document");
  await load(`firings/${coder}-${latent}.js`);
  const { label, address, peaks, documents } = window.outcropFirings;
  if (!(number in documents)) throw new Error(`no window that is shown of latent ${latent} is from document ${number}`);
  await load(`documents/${number}.js`);
  if (mine !== turn) return;
  const { first, texts } = window.outcropDocument, fired = documents[number], peak = peaks[number];
  const link = document.createElement("a");
  link.href = address;
  link.textContent = `latent ${latent}`;
  where.replaceChildren(`${label} · `, link);
  title.textContent = document.title = `Document ${number}`;
  status.textContent = `What was cached of it, ${texts.length} ${texts.length === 1 ? "context" : "contexts"}. A token’s shade is its activation as a share of the highest here${peak && `, ${peak}`}.`;
  contexts.replaceChildren(...texts.map((context, i) => tokens(first + i, context, fired[i])));
  const here = document.getElementById(`context-${begin}`);
  here?.classList.add("here");
  here?.scrollIntoView();
};

const shown = () => {
  const mine = ++turn;
  return show(mine).catch((error) => {
    if (mine !== turn) return;
    where.replaceChildren();
    contexts.replaceChildren();
    title.textContent = "Document";
    status.textContent = error.message;
  });
};
addEventListener("hashchange", shown);
shown();
