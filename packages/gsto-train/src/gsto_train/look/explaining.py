"""What `gsto-predict --explain` leaves of each picture: its branches, its gates, and a strip to compare."""

from collections.abc import Mapping, Sequence
from typing import Any

from gsto_train.look import figures
from gsto_train.look.drawing import Picture, coloured
from gsto_train.look.figures import Shown
from gsto_train.look.gallery import Look, Output
from gsto_train.look.inputs import Input, Seen
from gsto_train.look.network import Network
from gsto_train.look.observing import Observer
from gsto_train.look.predicting import Looker, Prediction, looker


class Explanation:
    """One network, or two side by side, shown on a picture at a time.

    Raises `InputError` where matplotlib is missing, before anything is predicted.
    """

    def __init__(self, network: Network, looks: Looker, baseline: Network | None, ending: str) -> None:
        figures.check_installed()
        self._ending = ending
        self._networks = [network] if baseline is None else [baseline, network]
        self._lookers = [looks if each is network else looker(each) for each in self._networks]
        self._observers = [
            Observer(each, looks) for each, looks in zip(self._networks, self._lookers, strict=True)
        ]
        self._titles = _titles(self._networks)

    def into(self, output: Output) -> Look:
        """Return what draws the figures of a picture into a folder of its name, and tells their names."""

        def draw(shown: Input, seen: Seen, found: Prediction) -> Mapping[str, Any]:
            drawn = {**self._insides(seen), **self._strip(seen, found)}
            place = f"explain/{shown.name}"
            return {
                "figures": [
                    output.write(f"{place}/{name}.{self._ending}", content) for name, content in drawn.items()
                ]
            }

        return draw

    def _insides(self, seen: Seen) -> dict[str, bytes]:
        """Return the figures of branches and gates by name; none for a picture without boxes."""
        observed = [observer.observe(seen.picture, seen.boxes) for observer in self._observers]
        shown = [
            Shown(title, observer.branches, observer.gates, observation.maps)
            for title, observer, observation in zip(self._titles, self._observers, observed, strict=True)
            if observation is not None
        ]
        if not shown or observed[-1] is None:
            return {}
        picture = observed[-1].picture
        drawn = (
            {"branches": figures.branches_figure(picture, shown, self._ending)} if _branched(shown) else {}
        )
        for part in dict.fromkeys(gate.part for each in shown for gate in each.gates):
            name = "gates-" + part.replace(",", "").replace(" ", "-")
            drawn[name] = figures.gates_figure(picture, part, shown, self._ending)
        return drawn

    def _strip(self, seen: Seen, found: Prediction) -> dict[str, bytes]:
        """Return figure 5's strip: picture, truth, baseline, network, as far as they are there."""
        network, looks = self._networks[-1], self._lookers[-1]
        predictions = [
            (title, each.predict(seen.picture, seen.boxes))
            for title, each in zip(self._titles[:-1], self._lookers[:-1], strict=True)
        ]
        told = [("truth", seen.truth)] if seen.truth is not None else []
        labelled = [*told, *predictions, (self._titles[-1], found)]
        panels: list[tuple[str, Picture]] = [("picture", seen.picture)]
        for title, each in labelled:
            drawn = coloured(each.classes, network.palette) if each.classes is not None else None
            panels.append((title, looks.draw(seen.picture, each, 1.0) if drawn is None else drawn))
        classes = [each.classes for _, each in labelled if each.classes is not None]
        present = figures.classes_in(*classes)
        return {"strip": figures.strip_figure(panels, network.labels, network.palette, present, self._ending)}


def _branched(shown: Sequence[Shown]) -> bool:
    return any(each.branches for each in shown)


def _titles(networks: Sequence[Network]) -> list[str]:
    """Return the networks' names; with what they come from where two have one name."""
    names = [network.title for network in networks]
    if len(set(names)) == len(names):
        return names
    return [f"{network.title} ({network.source.name})" for network in networks]
