package dsl

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
	"gopkg.in/yaml.v3"
)

// ModFile is the name of the file that lists the files of a modular model.
const ModFile = "fga.mod"

// JoinModules returns the modules source of the files of a modular model: fga.mod,
// under [ModFile], and every module file that it lists, under the name it lists it by.
//
// It is a txtar archive (golang.org/x/tools/txtar), fga.mod first, then the module
// files in the order of fga.mod, each after a line with its name:
//
//	-- fga.mod --
//	schema: "1.2"
//	contents:
//	  - core.fga
//	-- core.fga --
//	module core
//	type user
//
// The same files always give the same text. No line of a file may look like such a
// line with a name. An error is an [*Errors].
func JoinModules(files map[string][]byte) ([]byte, error) {
	d := newDraft()
	archive := &txtar.Archive{}
	mod, ok := files[ModFile]
	if !ok {
		d.fail(place{file: ModFile}, "", "the file is missing")
		return nil, d.errors()
	}
	d.files = []string{ModFile}
	listed := d.readModFile(string(mod))
	archive.Files = append(archive.Files, txtar.File{Name: ModFile, Data: mod})
	for _, l := range listed {
		if data, ok := files[l.text]; ok {
			archive.Files = append(archive.Files, txtar.File{Name: l.text, Data: data})
		}
	}
	d.compareListed(listed, slices.Sorted(maps.Keys(files)))
	joined := txtar.Format(archive)
	again := txtar.Parse(joined)
	for i, f := range archive.Files {
		if i >= len(again.Files) || again.Files[i].Name != f.Name || !bytes.Equal(bytes.TrimSuffix(again.Files[i].Data, []byte("\n")), bytes.TrimSuffix(f.Data, []byte("\n"))) {
			d.fail(place{file: f.Name}, "", "a line of the form \"-- name --\" cannot stand in a module file")
			break
		}
	}
	if len(d.errs) > 0 {
		return nil, d.errors()
	}
	return joined, nil
}

// ModuleNames returns the names of the module files that an fga.mod lists, in order:
// slash-separated paths beneath its own folder. An error is an [*Errors].
func ModuleNames(modFile []byte) ([]string, error) {
	d := newDraft()
	d.files = []string{ModFile}
	listed := d.readModFile(string(modFile))
	if len(d.errs) > 0 {
		return nil, d.errors()
	}
	names := make([]string, len(listed))
	for i, l := range listed {
		names[i] = l.text
	}
	return names, nil
}

// compareListed finds the files that fga.mod lists and that are not there, and those
// that are there, in names, and not listed.
func (d *draft) compareListed(listed []mention, names []string) {
	if len(d.errs) > 0 {
		return // the list itself is wrong
	}
	for _, l := range listed {
		if !slices.Contains(names, l.text) {
			d.giveUp(l.at, l.text, "the file %+q is listed and missing", l.text)
		}
	}
	for _, name := range names {
		if name != ModFile && !slices.ContainsFunc(listed, func(l mention) bool { return l.text == name }) {
			d.giveUp(place{file: name}, name, "the file is not listed in %s", ModFile)
		}
	}
}

// readModules reads what [JoinModules] wrote.
func (d *draft) readModules(source []byte) {
	d.verbatim = true
	archive := txtar.Parse(source)
	if len(bytes.TrimSpace(archive.Comment)) > 0 || len(archive.Files) == 0 {
		d.giveUp(place{}, "", "the source of modules begins with the line \"-- %s --\"", ModFile)
		return
	}
	texts := make(map[string]string)
	for _, f := range archive.Files {
		if _, twice := texts[f.Name]; twice {
			d.giveUp(place{file: f.Name}, f.Name, "the file stands twice")
		}
		texts[f.Name] = string(f.Data)
	}
	mod, ok := texts[ModFile]
	if !ok {
		d.giveUp(place{file: ModFile}, "", "the file is missing")
		return
	}
	d.files = []string{ModFile}
	listed := d.readModFile(mod)
	d.compareListed(listed, slices.Sorted(maps.Keys(texts)))
	var extensions []extension
	for _, l := range listed {
		if text, ok := texts[l.text]; ok {
			d.files = append(d.files, l.text)
			extensions = append(extensions, d.readModule(l.text, text)...)
		}
	}
	for _, e := range extensions {
		d.extend(e)
	}
}

// readModule reads one module file.
func (d *draft) readModule(file, text string) []extension {
	main := d.parse(file, text)
	if main == nil {
		return nil
	}
	header := main.ModuleHeader()
	if header == nil {
		d.giveUp(startOf(file, main.ModelHeader()), "model", "the file is not a module: it must begin with \"module\" and a name")
		return nil
	}
	return d.definitions(file, header.GetModuleName().GetText(), main)
}

// readModFile reads fga.mod: YAML with the schema version, 1.2, and the list of the
// module files. It returns their names and where each is listed.
func (d *draft) readModFile(text string) (listed []mention) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		d.giveUp(place{ModFile, 1, 1}, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		d.giveUp(place{ModFile, 1, 1}, "", "must have the fields schema and contents")
		return nil
	}
	at := func(n *yaml.Node) place { return place{ModFile, n.Line, n.Column} }
	fields := make(map[string]*yaml.Node)
	for pairs := document.Content[0].Content; len(pairs) > 1; pairs = pairs[2:] {
		switch name := pairs[0].Value; {
		case name != "schema" && name != "contents":
			d.giveUp(at(pairs[0]), name, "unknown field %+q; known are schema and contents", name)
		case fields[name] != nil:
			d.giveUp(at(pairs[0]), name, "the field %+q stands twice", name)
		default:
			fields[name] = pairs[1]
		}
	}
	switch schema := fields["schema"]; {
	case schema == nil:
		d.giveUp(place{ModFile, 1, 1}, "schema", "the field schema is missing; it must be \"1.2\"")
	case schema.Tag != "!!str" || schema.Value != "1.2":
		d.giveUp(at(schema), schema.Value, "the schema of modules must be the text \"1.2\"")
	default:
		d.model.Schema, d.schema = schema.Value, at(schema)
	}
	contents := fields["contents"]
	switch {
	case contents == nil:
		d.giveUp(place{ModFile, 1, 1}, "contents", "the field contents is missing; it must list the module files")
		return nil
	case contents.Kind != yaml.SequenceNode:
		d.giveUp(at(contents), contents.Value, "contents must be a list of module files")
		return nil
	case len(contents.Content) == 0:
		d.giveUp(at(contents), "contents", "contents must list at least one module file")
	}
	for _, item := range contents.Content {
		name, err := moduleName(item)
		if err == nil && slices.ContainsFunc(listed, func(l mention) bool { return l.text == name }) {
			err = fmt.Errorf("the file %+q is listed twice", name)
		}
		if err != nil {
			d.giveUp(at(item), item.Value, "%s", err)
			continue
		}
		listed = append(listed, mention{text: name, at: at(item)})
	}
	return listed
}

// moduleName returns the path that an entry of contents means. As in OpenFGA's own
// tools, it may be URL-encoded and written with backslashes.
func moduleName(item *yaml.Node) (string, error) {
	if item.Tag != "!!str" {
		return "", fmt.Errorf("must be the name of a module file, as text")
	}
	name, err := url.QueryUnescape(item.Value)
	if err != nil {
		return "", fmt.Errorf("%+q is not URL-encoded correctly", item.Value)
	}
	name = strings.ReplaceAll(name, "\\", "/")
	switch {
	case !strings.HasSuffix(name, ".fga"):
		return "", fmt.Errorf("%+q must be a file whose name ends in .fga", name)
	case path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("%+q must be a file in the folder of %s or beneath", name, ModFile)
	case name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("%+q must not begin or end with a space or hold control characters", name)
	}
	return name, nil
}
