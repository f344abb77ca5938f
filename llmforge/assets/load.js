// The data of a page, loaded on demand from data/. They are scripts, since a page that is read from a disk may load those.
"use strict";

const loadData = (() => {
  const nonce = document.currentScript.nonce, data = window.llmforge, wait = {}; // the page's policy lets only scripts with it run
  return (name, folder = "") => wait[folder + name] ??= new Promise((done, failed) => {
    if (Object.hasOwn(data, folder + name)) return done(data[folder + name]);
    const script = document.createElement("script");
    script.nonce = nonce;
    script.src = `data/${folder}${encodeURIComponent(name)}.js`;
    script.onload = () => done(data[folder + name]);
    script.onerror = () => failed(new Error(`${name} cannot be loaded`));
    document.head.append(script);
  });
})();
