"""The agreement of all nodes on which messages the registry stores."""

from ..backends.policies import Policy, stored_by
from ..exceptions import ConfigurationError
from .state import NodeState


class AgreedPolicy:
    """The policy of this node, which must store the same messages as that of the registry.

    Attributes:
        policy: The messages that this node stores.
        refusal: Why this node must not serve, because the registry stores other messages; "" otherwise.
    """

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.policy: Policy = Policy.of(state.config)
        self.refusal: str = ""
        self._has_begun = False

    async def begin(self) -> None:
        """Agree with the registry at the start.

        Raises:
            ConfigurationError: The registry, or a live node, stores other messages.
        """
        self.refusal = ""
        text = await self._state.backend.logs.policy()
        if text or self.policy:
            if not text:
                await self._check_nodes()
            await self._agree(text)
        self._has_begun = True

    async def begin_again(self) -> None:
        """Agree again, after content was lost or after a start without Redis. A difference makes the node unready."""
        if self._has_begun and not self.policy:
            return  # without logs it takes part in a registry that has some, while a deploy switches them on
        try:
            if self._has_begun:
                await self._agree(await self._state.backend.logs.policy())
                self.refusal = ""
            else:
                await self.begin()
        except ConfigurationError as error:
            self.refusal = str(error)
            self._state.log.error("%s", error)

    async def _agree(self, text: str) -> None:
        """Take ``text``, the policy of the registry. Replace it if it is open, or has other bounds."""
        logs = self._state.backend.logs
        if self.policy:
            text = await logs.begin(self.policy.text) or text
        while (found := Policy.read(text)) != self.policy:
            if text and not found.is_open:
                self.policy.check_agrees(found)
            text = await logs.replace_policy(text, self.policy.text)

    async def _check_nodes(self) -> None:
        """Check that no live node stores other messages. Nodes without logs leave no policy."""
        nodes = self._state.backend.nodes
        live = await nodes.live()
        for left_ms, (info, _) in zip(live.values(), await nodes.infos(list(live)), strict=True):
            name, what = stored_by(info)
            self.policy.check_same(f"replica {name!r} (with a lease for {left_ms / 1000:.1f} s)", what)
