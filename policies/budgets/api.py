"""REST of budgets: how much of each limit is used now, and setting it back."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import TenantViewSet
from controlplane.authority import Power
from policies.budgets import actions
from policies.budgets.access import standing_of
from policies.budgets.models import Budget


class AmountsSerializer(serializers.Serializer[Any]):
    """How much, by measure; in a limit 0 means none."""

    operations = serializers.IntegerField()
    rows = serializers.IntegerField()
    bytes = serializers.IntegerField()
    distinct = serializers.IntegerField()


class StandingSerializer(serializers.Serializer[Any]):
    """A budget in the current period. `used` and `held` (leased by workers) are null while Redis can't be reached."""

    limit = AmountsSerializer()
    used = AmountsSerializer(allow_null=True)
    held = AmountsSerializer(allow_null=True)
    period_start = serializers.DateTimeField()
    resets_at = serializers.DateTimeField()


class BudgetSerializer(serializers.ModelSerializer[Budget]):
    """A rule's limit for those who share it. `agent` and `target` null: whoever it is."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    target = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    now = serializers.SerializerMethodField()

    class Meta:
        model = Budget
        fields: ClassVar[list[str]] = ["id", "tenant", "rule", "per", "of", "agent", "target", "last_used_at", "now"]
        read_only_fields = fields

    @extend_schema(responses=StandingSerializer)
    def get_now(self, budget: Budget) -> dict[str, Any]:
        """How it stands."""
        return cast("dict[str, Any]", StandingSerializer(standing_of(budget, now=timezone.now())).data)


class BudgetViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Budgets that were ever used."""

    model = Budget
    read_power = Power.AUDIT
    related = ("tenant", "agent", "target")
    serializer_class = BudgetSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "rule": ["exact"],
        "per": ["exact"],
        "agent__name": ["exact"],
        "target__name": ["exact"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["rule", "agent__name", "target__name"]
    ordering_fields: ClassVar[list[str]] = ["last_used_at", "rule"]

    @extend_schema(request=None, responses=BudgetSerializer)
    @action(detail=True, methods=["post"])
    def reset(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """Have the current period start anew: nothing is used of the budget."""
        budget = actions.reset_budget(self.get_object(), acting_user=cast("User", self.acting_user))
        return Response(self.get_serializer(budget).data)


ROUTES: Final = (("budgets", BudgetViewSet),)
