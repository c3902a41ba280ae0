// Data of pages that lie in a folder come as scripts: nothing may be fetched from the file system.
"use strict";
const load = (source) => new Promise((done, failed) => {
  const script = document.createElement("script");
  script.src = source;
  script.onload = () => { script.remove(); done(); };
  script.onerror = () => { script.remove(); failed(new Error(`${source} is not beside this page`)); };
  document.head.append(script);
});
